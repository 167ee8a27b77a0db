"""OpenVINO, which reads the same files as ONNX Runtime and has kernels of its own."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pantheon.compress.loaded import THREADS, Loaded
from pantheon.errors import CompressionError

SETTINGS = {
    "INFERENCE_NUM_THREADS": THREADS,
    "NUM_STREAMS": 1,
    "INFERENCE_PRECISION_HINT": "f32",  # Else bfloat16 where the processor has it.
    "ENABLE_CPU_PINNING": False,  # Wherever the system has room, as other runtimes.
}

PRODUCTS = ("Convolution", "Deconvolution", "FullyConnected", "MatMul")
"""What OpenVINO calls the layers that integers are for."""


def in_openvino(file: Path) -> Loaded:
    """Read a file with OpenVINO, for the CPU; what is real in it is computed in float32.

    Raises:
        CompressionError: OpenVINO does not read it, or has no kernel for it.
    """
    request = _compiled(file).create_infer_request()
    model = request.get_compiled_model()
    names = [each.get_node().get_friendly_name() for each in model.inputs]

    def call(feed: Mapping[str, Any]) -> Sequence[Any]:
        found: Sequence[Any] = request.infer([feed[name] for name in names], share_inputs=True)
        return [found[output] for output in model.outputs]

    return Loaded(file, "openvino", "OpenVINO", names, call)


def float_layers(file: Path) -> list[str]:
    """The convolutions and matrix products that OpenVINO computes with real numbers in a file.

    Those whose scales are found at run time are among them: OpenVINO has no integers for them.
    """
    found = []
    for node in _compiled(file).get_runtime_model().get_ordered_ops():
        told = {key: str(value.value) for key, value in node.get_rt_info().items()}
        if told.get("layerType") in PRODUCTS and told["runtimePrecision"] not in ("u8", "i8"):
            found.append(node.get_friendly_name())
    return found


def _compiled(file: Path) -> Any:
    core = _openvino().Core()
    try:
        return core.compile_model(core.read_model(file), "CPU", SETTINGS)
    except RuntimeError as error:
        said = str(error).strip().splitlines()[-1]
        raise CompressionError(
            f"{file}: OpenVINO cannot compute it: {said}; expected operators that it has. Export "
            "another opset, or leave openvino out of the stage"
        ) from error


def _openvino() -> Any:
    """The package, without its telemetry.

    Its import tells its makers that it was imported, and leaves an identifier in the user's home,
    but for where the package that sends this is missing.
    """
    with _absent("openvino_telemetry"):
        import openvino
    return openvino


@contextmanager
def _absent(name: str) -> Iterator[None]:
    """Let a package be as if it were not installed, meanwhile."""
    modules: dict[str, Any] = sys.modules
    before = {name: modules[name]} if name in modules else {}
    modules[name] = None
    try:
        yield
    finally:
        del modules[name]
        modules |= before
