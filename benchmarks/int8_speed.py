"""How fast a model that was trained through rounding is, as integers in ONNX Runtime.

Run ``python -m benchmarks.int8_speed [--seconds 20] [--rounds 40]``. Nets with fresh weights have
their batch norms folded, are calibrated, trained for a few steps through the rounding, and
exported; they run by one thread in turns with ONNX Runtime's own static quantization of the same
net, and with the net in real numbers. Exit status 1 if one takes more than 1.1 times as long as
ONNX Runtime's own, or if ResNet-18 is less than 2.3 or MobileNetV1 less than 1.7 times faster than
with real numbers (which asks for a processor with VNNI). Minima are compared: what disturbs a run
only makes it longer.
"""

from __future__ import annotations

import argparse
import copy
import sys
import tempfile
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from examples.vision import nets
from pantheon.compress.export import Export
from pantheon.compress.fold import FoldBatchNorm
from pantheon.compress.latency import compare_latency
from pantheon.compress.quantize.calibrating import calibrate
from pantheon.compress.quantize.edit import RoundTensors, Weight
from pantheon.compress.quantize.exported import float_operators
from pantheon.compress.quantize.folding import foldable
from pantheon.compress.quantize.integers import OneBatch, write_integers
from pantheon.compress.quantize.observers import AbsMax
from pantheon.compress.quantize.rounding import Rounder
from pantheon.compress.quantize.simulated import plain
from pantheon.compress.quantize.spots import spots_of
from pantheon.compress.turns import Candidate

FASTER: dict[str, float | None] = {"resnet18": 2.3, "mobilenet_v1": 1.7, "mobilenet_v2": None}
"""How many times faster than with real numbers each net has to be."""

SLOWER = 1.1
"""How many times the latency of ONNX Runtime's own quantization is allowed."""


class Stream(list[Any]):
    """Batches of images."""

    def __init__(self, *images: Tensor) -> None:
        super().__init__(map(self._batch, images))

    @staticmethod
    def _batch(images: Tensor) -> Any:
        batch = SimpleNamespace(inputs=images, mask=torch.ones(len(images), dtype=torch.bool))
        batch.to = lambda device: batch
        return batch


def trained(net: nn.Module, images: Tensor, steps: int) -> nn.Module:
    """A net that was calibrated, and trained for some steps through the rounding."""
    spots = spots_of(net, images)
    found = calibrate(net, spots, Stream(images), AbsMax)
    edit = RoundTensors(found.activations, dict.fromkeys(spots.weights, Weight()))
    model = edit.apply(copy.deepcopy(net))
    rounders = [module for module in model.modules() if isinstance(module, Rounder)]
    for rounder, threshold in zip(rounders, found.thresholds, strict=True):
        rounder.start(threshold)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    for _ in range(steps):
        optimizer.zero_grad()
        loss: Tensor = nn.functional.cross_entropy(model(images), torch.arange(len(images)))
        loss.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
        optimizer.step()
    return model.eval()


def session(file: Path) -> Any:
    """A file in ONNX Runtime, on one thread."""
    from onnxruntime import InferenceSession, SessionOptions

    options = SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return InferenceSession(file, options, providers=["CPUExecutionProvider"])


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
    feed = {session(found["float"]).get_inputs()[0].name: images.numpy()}
    quantize_static(
        found["float"],
        found["theirs"],
        OneBatch(feed),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    return found


def compare(name: str, given: argparse.Namespace, folder: Path) -> bool:
    """Whether a net is as fast as asked; printed with its spread."""
    image = torch.randn(1, 3, given.side, given.side).numpy()
    every, candidates = files(name, given, folder), {}
    for way, file in every.items():
        run = session(file)
        call = partial(run.run, None, {run.get_inputs()[0].name: image})
        candidates[way] = Candidate(call, runtime="onnxruntime", rows=1)
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
    asked = FASTER[name]
    return slower <= SLOWER and (asked is None or faster >= asked)


def main() -> None:
    """Compare all nets."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--steps", type=int, default=3, help="of training through the rounding")
    parser.add_argument("--side", type=int, default=224)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        met = [compare(name, given, Path(folder)) for name in FASTER]
    sys.exit(not all(met))


if __name__ == "__main__":
    main()
