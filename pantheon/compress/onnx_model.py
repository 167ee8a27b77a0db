"""An exported file in place of the model that it was made of."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from pantheon.compress.inputs import fed
from pantheon.compress.loaded import THREADS, Loaded


def onnx_session(file: Path, threads: int = 1) -> Any:
    """A file in ONNX Runtime, on the CPU."""
    from onnxruntime import InferenceSession, SessionOptions

    options = SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    return InferenceSession(file, options, providers=["CPUExecutionProvider"])


def in_onnxruntime(file: Path) -> Loaded:
    """Read a file with ONNX Runtime, for the CPU."""
    session = onnx_session(file, THREADS)
    names = [each.name for each in session.get_inputs()]
    return Loaded(file, "onnxruntime", "ONNX Runtime", names, partial(session.run, None))


class OnnxModel(nn.Module):
    """Answers what ONNX Runtime does for a file, in the form in which a model does.

    Args:
        file: what the model was exported to.
        like: an answer of the model: a tensor, or tensors in mappings, tuples and lists.
        threads: of ONNX Runtime.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from pantheon.compress.export import Export
        >>> with TemporaryDirectory() as folder:
        ...     file = Path(folder, "model.onnx")
        ...     Export().write(nn.ReLU(), torch.ones(1, 2), file)
        ...     OnnxModel(file, torch.ones(1, 2))(torch.tensor([[-1.0, 2.0]]))
        tensor([[0., 2.]])
    """

    def __init__(self, file: Path, like: Any, threads: int = 1) -> None:
        super().__init__()
        self._session, self._like = onnx_session(file, threads), like
        self._names = [each.name for each in self._session.get_inputs()]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Its answer to what the model is called with."""
        found = iter(self._session.run(None, fed(kwargs or args, self._names)))
        return pytree.tree_map_only(Tensor, lambda _: torch.from_numpy(next(found)), self._like)
