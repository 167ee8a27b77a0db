"""How much faster a net without half of its multiply-accumulates is, in ONNX Runtime.

Run ``python -m benchmarks.pruned_speed [--remove 0.5] [--seconds 20] [--rounds 20] [--align 16]``.
MobileNetV1 and ResNet-18 with fresh weights, uniformly pruned by the filters' L1 norm, are exported
and run by one thread in turns with the whole nets; ratios are of the medians of each round. Exit
status 1 if one is less than 1.6 times faster. Channels that are left are multiples of 16, for which
ONNX Runtime has its fast convolutions; with ``--align 1`` MobileNetV1 is not faster at all.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from examples.vision import nets
from pantheon.compress.export import Export
from pantheon.compress.latency import compare_latency
from pantheon.compress.prune.costs import cost_of
from pantheon.compress.prune.cutting import Ranked, cut
from pantheon.compress.prune.ranking import chosen, uniform
from pantheon.compress.turns import Candidate

NETS = ("mobilenet_v1", "resnet18")
ASKED = 1.6


def pruned(net: nn.Module, image: Tensor, remove: float, align: int) -> tuple[nn.Module, float]:
    """A net without a fraction of its MACs, and what is left of them."""
    ranked = Ranked.by("l1", align=align)
    structure = ranked.structure(net, image)
    rankings = ranked.rankings(structure, net, None, seed=0)
    cost = cost_of("macs", net, image)
    reached = cut(structure, rankings, uniform(rankings), cost, 1 - remove, {})
    return structure.pruned(chosen(rankings, reached.counts)), reached.left


def session(net: nn.Module, image: Tensor, file: Path) -> Any:
    """A net in ONNX Runtime, on one thread."""
    from onnxruntime import InferenceSession, SessionOptions

    Export(dynamic_batch=False).write(net.eval(), image, file)
    options = SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return InferenceSession(file, options, providers=["CPUExecutionProvider"])


def compare(name: str, given: argparse.Namespace, folder: Path) -> float:
    """How many times faster a net is when it is pruned; printed with its spread."""
    torch.manual_seed(0)
    image = torch.randn(1, 3, given.side, given.side)
    whole = getattr(nets, name)(classes=1000).eval()
    small, left = pruned(whole, image, given.remove, given.align)
    candidates: dict[str, Any] = {}
    for which, net in (("whole", whole), ("pruned", small)):
        run = session(net, image, folder / f"{name}-{which}.onnx")
        call = partial(run.run, None, {run.get_inputs()[0].name: image.numpy()})
        candidates[which] = Candidate(call, runtime="onnxruntime", rows=1)
    found = compare_latency(candidates, seconds=given.seconds, rounds=given.rounds)
    ratio = found.ratios["pruned"]
    print(
        f"{name}: {left:.1%} of the MACs left; "
        f"{found.latencies['whole'].median:.2f} -> {found.latencies['pruned'].median:.2f} ms, "
        f"{1 / ratio.median:.2f} times faster "
        f"(quartiles {1 / ratio.upper:.2f} to {1 / ratio.lower:.2f}, {found.rounds} rounds)",
        flush=True,
    )
    return 1 / ratio.median


def main() -> None:
    """Compare all nets."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--remove", type=float, default=0.5)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--align", type=int, default=16, help="channels left are a multiple of it")
    parser.add_argument("--side", type=int, default=224)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = [compare(name, given, Path(folder)) for name in NETS]
    sys.exit(min(found) < ASKED)


if __name__ == "__main__":
    main()
