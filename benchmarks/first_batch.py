"""Seconds from constructing a loader to its first batch, on a running teacher.

Run ``python -m benchmarks.first_batch [--rounds 20]``. The bound is 1 second; PaddleSlim's Pantheon
took 1.5 s to start and 2 s more for every epoch, by its one-second polls.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from multiprocessing.connection import Connection

import numpy as np
import torch
from torch.utils.data import TensorDataset

from student_client import KnowledgeLoader
from teacher_server import Teacher

ROWS, FEATURES, CLASSES = 1024, 64, 10


def dataset() -> TensorDataset:
    """Random inputs and labels, the same in both processes."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(ROWS, FEATURES, generator=generator)
    return TensorDataset(inputs, torch.randint(0, CLASSES, (ROWS,), generator=generator))


def serve(pipe: Connection) -> None:
    """A teacher in a process of its own, until told to stop."""
    torch.manual_seed(0)
    model = torch.nn.Linear(FEATURES, CLASSES)
    teacher = Teacher(model, dataset(), schema={"logits": "float32"})
    with teacher.start("tcp://127.0.0.1:0", "grpc://127.0.0.1:0") as server:
        pipe.send(list(server.addresses))
        pipe.recv()


def seconds(address: str) -> float:
    """One loader from nothing to its first batch."""
    samples = dataset()
    start = time.perf_counter()
    with KnowledgeLoader(samples, batch_size=32, shuffle=True, teachers={"t": address}) as loader:
        next(iter(loader))
        return time.perf_counter() - start


def main() -> None:
    """Print the median, quartiles and maximum for each transport."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(theirs,), daemon=True)
    process.start()
    for address in ours.recv():
        times = [seconds(address) for _ in range(rounds)]
        low, middle, high = np.percentile(times, [25, 50, 75])
        print(
            f"first batch over {address.split(':')[0]}: median {middle:.3f} s "
            f"(quartiles {low:.3f} to {high:.3f}, maximum {max(times):.3f}, {rounds} rounds)"
        )
    ours.send("stop")
    process.join(10)


if __name__ == "__main__":
    main()
