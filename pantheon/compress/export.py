"""The export stage: the model as ONNX, checked against torch where it will run."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pantheon.compress.artifact import Artifact
from pantheon.compress.config import ExportConfig
from pantheon.compress.inputs import called, fed
from pantheon.compress.latency import latency_of
from pantheon.compress.quantize.exported import float_operators
from pantheon.compress.quantize.graph import exported, op_of, path_of
from pantheon.compress.quantize.integers import write_integers
from pantheon.compress.quantize.simulated import frozen, is_quantized, plain
from pantheon.compress.quiet import quiet
from pantheon.compress.stage import INTEGERS, Cost, Outcome, Phase, Work
from pantheon.errors import CompressionError, ConfigError, ModelError
from pantheon.training.objective import call_student
from pantheon.training.rehearsal import first_batch

FILE, INTEGER_FILE = "model.onnx", "model.int8.onnx"


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """Writes ``model.onnx`` and makes sure that ONNX Runtime answers as torch does.

    Of a quantized model that is the one that it stands for, with real numbers and weights that are
    not rounded; what computes with integers is written beside it as ``model.int8.onnx``.

    Args:
        opset: version of the operator set.
        dynamic_batch: leave the number of rows open; else it is that of the stream's batches.
        tolerance: largest absolute difference of an output, relative to the largest output.
        integer_tolerance: the same between the integers and the model that rounds: a sum that is
            nearly between two integers may go either way, and later layers add to that. What
            rounding changes by itself is allowed in any case.
        freeze: whether scales that are found at run time are fixed where they were in training.
        name: of the stage.

    Raises:
        ConfigError: the packages for it are not installed.
    """

    opset: int = 20
    dynamic_batch: bool = True
    tolerance: float = 1e-3
    integer_tolerance: float = 0.2
    freeze: bool = False
    name: str = "export"

    phase: Phase = field(default="export", init=False)
    changes: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        missing = [p for p in ("onnx", "onnxscript", "onnxruntime") if find_spec(p) is None]
        if missing:
            raise ConfigError(
                f"an export to ONNX needs {', '.join(missing)}, which is not installed; install "
                "pantheon-kd[compress]"
            )

    @classmethod
    def from_config(cls, config: ExportConfig) -> Export:
        """The stage that a configuration describes."""
        return cls(
            opset=config.opset,
            dynamic_batch=config.dynamic_batch,
            tolerance=config.tolerance,
            integer_tolerance=config.integer_tolerance,
            freeze=config.freeze,
            name=config.name or "export",
        )

    def cost(self, samples: int) -> Cost:
        """One more copy of the weights."""
        return Cost(copies=2)

    def check(self, model: nn.Module) -> None:
        """Any model may be tried."""

    def run(self, artifact: Artifact, work: Work) -> Outcome:
        """Export, and compare the outputs for one batch of the stream."""
        stream = (work.parts.validation or work.parts.train).samples()
        inputs = first_batch(stream).inputs
        model = artifact.model.to("cpu").eval()
        if not work.ranks.first:
            return Outcome(artifact)
        file, real = work.folder / FILE, plain(model) if is_quantized(model) else model
        self.write(real, inputs, file)
        figures, files = self.verify(real, inputs, file, self.tolerance), {"onnx": FILE}
        if real is not model:
            integers = work.folder / INTEGER_FILE
            model = frozen(model) if self.freeze else model
            write_integers(model, inputs, file, integers)
            lost = _apart(_answers(model, inputs), _answers(real, inputs))
            found = self.verify(model, inputs, integers, self.integer_tolerance, lost)
            found["float_operators"] = [
                f"{op} of {p or 'the model'}" for op, p in float_operators(integers)
            ]
            figures, files = figures | {INTEGERS: found}, files | {INTEGERS: INTEGER_FILE}
        return Outcome(artifact, samples=0, figures=figures, files=files)

    def write(self, model: nn.Module, inputs: Any, file: Path) -> None:
        """Write the file, whole or not at all.

        Raises:
            CompressionError: an operator cannot be exported; it is named with its module.
        """
        args, kwargs = called(inputs)
        partial = file.with_name(f".{file.name}.partial")
        shapes = _dynamic(inputs) if self.dynamic_batch else None
        with warnings.catch_warnings(), torch.no_grad(), quiet("torch.onnx"):
            warnings.simplefilter("ignore")  # of the exporter about its own insides
            try:
                program = torch.onnx.export(
                    model,
                    args,
                    kwargs=kwargs,
                    dynamo=True,
                    opset_version=self.opset,
                    dynamic_shapes=shapes,
                    verbose=False,
                )
            except Exception as error:  # whatever it meets in a model that it does not know
                raise _unexported(error, model, inputs) from error
            if program is None:
                raise ModelError("torch answered no ONNX program for this model")
            program.save(partial)
        os.replace(partial, file)

    def verify(
        self,
        model: nn.Module,
        inputs: Any,
        file: Path,
        tolerance: float | None = None,
        allowed: float = 0.0,
    ) -> dict[str, Any]:
        """Compare the outputs of ONNX Runtime with torch's, and measure its latency.

        Args:
            tolerance: by default the stage's.
            allowed: a difference that is none whatever the tolerance.

        Raises:
            CompressionError: they differ by more than the tolerance.
        """
        from onnxruntime import InferenceSession, SessionOptions

        options = SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = InferenceSession(file, options, providers=["CPUExecutionProvider"])
        feed = fed(inputs, [each.name for each in session.get_inputs()])
        expected = _answers(model, inputs)
        scale = float(np.max([np.abs(e).max() for e in expected])) or 1.0
        worst = _apart(expected, session.run(None, feed))
        most = self.tolerance if tolerance is None else tolerance
        if not worst <= max(most * scale, allowed):
            raise CompressionError(
                f"{file}: ONNX Runtime's outputs differ from torch's by {worst:.3g}, with outputs "
                f"up to {scale:.3g}; expected at most {most:g} of that"
            )
        rows = 1 if self.dynamic_batch else len(next(iter(feed.values())))
        some = {name: value[:rows] for name, value in feed.items()}
        timed = latency_of(
            lambda: session.run(None, some), runtime="onnxruntime", rows=rows, threads=1
        )
        return {
            "largest_difference": worst,
            "largest_output": scale,
            "bytes": file.stat().st_size,
            "latency": asdict(timed),
        }


def _unexported(error: Exception, model: nn.Module, inputs: Any) -> CompressionError:
    """What cannot be exported, and where it is.

    Raises:
        CompressionError: the model cannot even be followed.
    """
    said, cause = "", error
    while cause is not None:
        said, cause = said + str(cause), cause.__cause__  # type: ignore[assignment]
    names = set(re.findall(r"No ONNX function found for <OpOverload\(op='\w+\.(\w+)'", said))
    nodes = [node for node in exported(model, inputs).graph.nodes if op_of(node) in names]
    if nodes:
        where = ", ".join(
            dict.fromkeys(f"{op_of(n)} of {path_of(n) or 'the model'}" for n in nodes)
        )
        return CompressionError(
            f"the {type(model).__name__} cannot be exported to ONNX, which has no operator for "
            f"{where}; replace it by operations that ONNX has"
        )
    told = next((line for line in str(error).splitlines() if line.strip()), "")
    return CompressionError(
        f"the {type(model).__name__} cannot be exported to ONNX: {type(error).__name__}: {told}"
    )


def _dynamic(inputs: Any) -> Any:
    """Which dimensions are left open: the first of every input."""
    rows = {0: torch.export.Dim("rows")}
    match inputs:
        case Mapping():
            return dict.fromkeys(inputs, rows)
        case tuple() | list():
            return tuple(rows for _ in inputs)
    return (rows,)


def _answers(model: nn.Module, inputs: Any) -> list[Any]:
    with torch.inference_mode():
        return [tensor.float().numpy() for tensor in _tensors(call_student(model, inputs))]


def _apart(expected: Sequence[Any], found: Sequence[Any]) -> float:
    """The largest absolute difference; unlike Python's own maximum, NaN where one is."""
    return float(np.max([np.abs(e - f).max() for e, f in zip(expected, found, strict=True)]))


def _tensors(output: Any) -> list[Tensor]:
    match output:
        case Mapping():
            return [v for v in output.values() if isinstance(v, Tensor)]
        case tuple() | list():
            return [v for v in output if isinstance(v, Tensor)]
    return [output]
