"""The export stage: the model as ONNX, checked against torch where it will run."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import nn

from pantheon.compress.artifact import Artifact
from pantheon.compress.config import ExportConfig
from pantheon.compress.inputs import called
from pantheon.compress.loaded import Loaded, answers, apart, compared
from pantheon.compress.onnx_model import in_onnxruntime
from pantheon.compress.openvino_runtime import float_layers, in_openvino
from pantheon.compress.quantize.exported import NODE, SCOPES, float_operators
from pantheon.compress.quantize.graph import exported, op_of, path_of
from pantheon.compress.quantize.integers import write_integers
from pantheon.compress.quantize.simulated import frozen, is_quantized, plain
from pantheon.compress.quiet import quiet
from pantheon.compress.stage import INTEGERS, Cost, Outcome, Phase, Work
from pantheon.errors import CompressionError, ConfigError, ModelError
from pantheon.quote import quoted
from pantheon.training.rehearsal import first_batch

FILE, INTEGER_FILE = "model.onnx", "model.int8.onnx"

ONNX = "onnx"
"""What the stage calls the file with real numbers."""


class _Written(NamedTuple):
    """A file, what it is of, and how much its outputs may differ: by a fraction, or as much."""

    file: Path
    model: nn.Module
    tolerance: float
    allowed: float = 0.0


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
        openvino: whether OpenVINO has to answer as torch does, too, and is timed.
        name: of the stage.

    Raises:
        ConfigError: the packages for it are not installed.
    """

    opset: int = 20
    dynamic_batch: bool = True
    tolerance: float = 1e-3
    integer_tolerance: float = 0.2
    freeze: bool = False
    openvino: bool = False
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
        if self.openvino and find_spec("openvino") is None:
            raise ConfigError(
                f"stage {quoted(self.name)} is to run its files in OpenVINO, which is not "
                "installed; install pantheon-kd[openvino], or set openvino to false"
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
            openvino=config.openvino,
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
        written = self._written(model, inputs, work.folder)
        figures = self._figures(written, inputs)
        if self.openvino:
            figures["openvino"] = self._in_openvino(written, inputs)
        files = {kind: each.file.name for kind, each in written.items()}
        return Outcome(artifact, samples=0, figures=figures, files=files)

    def _written(self, model: nn.Module, inputs: Any, folder: Path) -> dict[str, _Written]:
        """The files, by what they are called among those that a stage left."""
        file, real = folder / FILE, plain(model) if is_quantized(model) else model
        self.write(real, inputs, file)
        written = {ONNX: _Written(file, real, self.tolerance)}
        if real is not model:
            integers = folder / INTEGER_FILE
            model = frozen(model) if self.freeze else model
            write_integers(model, inputs, file, integers)
            lost = apart(answers(model, inputs), answers(real, inputs))
            written[INTEGERS] = _Written(integers, model, self.integer_tolerance, lost)
        return written

    def _figures(self, written: Mapping[str, _Written], inputs: Any) -> dict[str, Any]:
        """What ONNX Runtime makes of the files; of that with real numbers at the top."""
        found = {
            kind: self.verify(each.model, inputs, each.file, each.tolerance, each.allowed)
            | {"bytes": each.file.stat().st_size}
            for kind, each in written.items()
        }
        if INTEGERS in found:
            left = float_operators(written[INTEGERS].file)
            found[INTEGERS]["float_operators"] = [f"{op} of {p or 'the model'}" for op, p in left]
        return found.pop(ONNX) | found

    def _in_openvino(self, written: Mapping[str, _Written], inputs: Any) -> dict[str, Any]:
        """What OpenVINO makes of the files."""
        found = {
            kind: self.verify(
                each.model, inputs, each.file, each.tolerance, each.allowed, in_openvino
            )
            for kind, each in written.items()
        }
        if INTEGERS in found:
            found[INTEGERS]["float_layers"] = float_layers(written[INTEGERS].file)
        return found

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
            _forget(program.model)
            program.save(partial)
        os.replace(partial, file)

    def verify(
        self,
        model: nn.Module,
        inputs: Any,
        file: Path,
        tolerance: float | None = None,
        allowed: float = 0.0,
        load: Callable[[Path], Loaded] = in_onnxruntime,
    ) -> dict[str, Any]:
        """Compare the outputs of a runtime with torch's, and measure its latency.

        Args:
            tolerance: by default the stage's.
            allowed: a difference that is none whatever the tolerance.
            load: has the runtime read the file.

        Raises:
            CompressionError: they differ by more than the tolerance.
        """
        most = self.tolerance if tolerance is None else tolerance
        rows = 1 if self.dynamic_batch else None
        return compared(load(file), model, inputs, most, allowed=allowed, rows=rows)


def _forget(model: Any) -> None:
    """Drop what the exporter noted that nobody asked for: it tells where files lie on this machine.

    What is left says of each node from which module and call it came.
    """
    model.graph.metadata_props.clear()
    for node in model.graph.all_nodes():
        for key in [key for key in node.metadata_props if key not in (SCOPES, NODE)]:
            del node.metadata_props[key]


def _unexported(error: Exception, model: nn.Module, inputs: Any) -> CompressionError:
    """What cannot be exported, and where it is.

    Raises:
        CompressionError: the model cannot even be followed.
    """
    said, cause = "", cast(BaseException | None, error)
    while cause is not None:
        said, cause = said + str(cause), cause.__cause__
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
