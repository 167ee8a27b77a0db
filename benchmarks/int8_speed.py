"""How fast a model that was trained through rounding is, as integers in ONNX Runtime.

Run ``python -m benchmarks.int8_speed [--seconds 20] [--rounds 40]``. Nets with fresh weights have
their batch norms folded, are calibrated, trained for a few steps through the rounding, and
exported; they run by one thread in turns with ONNX Runtime's own static quantization of the same
net, with the net in real numbers, and with both of our files in OpenVINO where that is installed.
Exit status 1 if one takes more than 1.1 times as long as ONNX Runtime's own, or, on a processor
with VNNI, if ResNet-18 is less than 2.3 or MobileNetV1 less than 1.7 times faster than with real
numbers. Without VNNI weights have 7 bits, ours and ONNX Runtime's own. Minima are compared: what
disturbs a run only makes it longer.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from examples.vision import nets
from pantheon.compress.export import Export
from pantheon.compress.fold import FoldBatchNorm
from pantheon.compress.inputs import fed
from pantheon.compress.latency import compare_latency
from pantheon.compress.loaded import Loaded
from pantheon.compress.onnx_model import in_onnxruntime
from pantheon.compress.openvino_runtime import float_layers, in_openvino
from pantheon.compress.quantize.exported import float_operators
from pantheon.compress.quantize.fitting import rounded_by
from pantheon.compress.quantize.folding import foldable
from pantheon.compress.quantize.integers import OneBatch, write_integers
from pantheon.compress.quantize.processor import saturates
from pantheon.compress.quantize.simulated import plain
from pantheon.compress.turns import Candidate

FASTER: dict[str, float | None] = {"resnet18": 2.3, "mobilenet_v1": 1.7, "mobilenet_v2": None}
"""How many times faster than with real numbers each net has to be, on a processor with VNNI."""

SLOWER = 1.1
"""How many times the latency of ONNX Runtime's own quantization is allowed."""


def trained(net: nn.Module, images: Tensor, steps: int) -> nn.Module:
    """A net that was calibrated, and trained for some steps through the rounding."""
    model = rounded_by(net, images)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    for _ in range(steps):
        optimizer.zero_grad()
        loss: Tensor = nn.functional.cross_entropy(model(images), torch.arange(len(images)))
        loss.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
        optimizer.step()
    return model.eval()


def files(name: str, given: argparse.Namespace, folder: Path) -> dict[str, Path]:
    """A net in three ways: ONNX Runtime's own integers, ours, and real numbers."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    torch.manual_seed(0)
    images = torch.randn(4, 3, given.side, given.side)
    net = getattr(nets, name)(classes=1000).eval()
    net = FoldBatchNorm(foldable(net, images)).apply(net)
    model = trained(net, images, given.steps)
    found = {way: folder / f"{name}-{way}.onnx" for way in ("theirs", "ours", "float")}
    Export().write(plain(model), images, found["float"])
    write_integers(model, images, found["float"], found["ours"])
    feed = fed(images, in_onnxruntime(found["float"]).names)
    quantize_static(
        found["float"],
        found["theirs"],
        OneBatch(feed),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        reduce_range=saturates(),
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    return found


def candidate(loaded: Loaded, image: Tensor) -> Candidate:
    """One image for a file in a runtime."""
    call = partial(loaded.call, fed(image, loaded.names))
    return Candidate(call, runtime=loaded.runtime, rows=1)


def compare(name: str, given: argparse.Namespace, folder: Path) -> bool:
    """Whether a net is as fast as asked; printed with its spread."""
    image = torch.randn(1, 3, given.side, given.side)
    every = files(name, given, folder)
    candidates = {way: candidate(in_onnxruntime(file), image) for way, file in every.items()}
    if find_spec("openvino"):
        for way in ("ours", "float"):
            candidates[f"openvino {way}"] = candidate(in_openvino(every[way]), image)
    found = compare_latency(candidates, seconds=given.seconds, rounds=given.rounds)
    least = {way: latency.minimum for way, latency in found.latencies.items()}
    slower, faster = least["ours"] / least["theirs"], least["float"] / least["ours"]
    size = every["ours"].stat().st_size / every["float"].stat().st_size
    ratio = found.ratios["ours"]
    print(
        f"{name}: {least['float']:.2f} ms -> {least['ours']:.2f} ms, {faster:.2f} times faster; "
        f"{slower:.2f} times ONNX Runtime's own {least['theirs']:.2f} ms (medians of rounds "
        f"{ratio.median:.2f}, quartiles {ratio.lower:.2f} to {ratio.upper:.2f}, {found.rounds} "
        f"rounds); {size:.1%} of the size; real numbers are left in "
        f"{', '.join(f'{kind} of {path}' for kind, path in float_operators(every['ours']))}",
        flush=True,
    )
    if "openvino ours" in least:
        print(
            f"  {beside(least)}; layers left real: {len(float_layers(every['ours']))}", flush=True
        )
    asked = None if saturates() else FASTER[name]
    return slower <= SLOWER and (asked is None or faster >= asked)


def beside(least: Mapping[str, float]) -> str:
    """What OpenVINO takes for the same files."""
    real, integers = least["openvino float"], least["openvino ours"]
    return (
        f"in OpenVINO: {real:.2f} ms -> {integers:.2f} ms, {real / integers:.2f} times faster; "
        f"integers {integers / least['ours']:.2f} times ONNX Runtime's latency"
    )


def main() -> None:
    """Compare all nets."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--steps", type=int, default=3, help="of training through the rounding")
    parser.add_argument("--side", type=int, default=224)
    given = parser.parse_args()
    if saturates():
        print("The processor has no VNNI: weights have 7 bits, and no times faster are asked for.")
    else:
        print("The processor has VNNI, or is no x86: weights have 8 bits.")
    if not find_spec("openvino"):
        print("OpenVINO is not installed: its figures are left out.")
    with tempfile.TemporaryDirectory() as folder:
        met = [compare(name, given, Path(folder)) for name in FASTER]
    sys.exit(not all(met))


if __name__ == "__main__":
    main()
