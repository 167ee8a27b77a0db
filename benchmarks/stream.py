"""The rate of the stream beside a bare pyzmq loop and the predecessor's pickled queue.

Run ``python -m benchmarks.stream [--pairs 30] [--only W1]``. Each workload has one teacher process
and one student process (this one). Blocks of 100 batches (W4: of 100 messages of 32 batches) of our
way and of the rivals alternate in random order; a row gives the median rate, the mean CPU time, and
the median of the paired ratios with its quartiles.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import psutil
import torch

from benchmarks import rivals
from benchmarks.workloads import WORKLOADS, Workload, arrays, teacher
from pantheon.knowledge import Ragged, TopKLogits
from student_client import KnowledgeLoader


def serve(name: str, manager: int | None, pipe: Connection) -> None:
    """The teacher process: ours and every rival, over the same tables."""
    torch.set_num_threads(1)
    workload = WORKLOADS[name]
    tables = arrays(workload)
    bare = rivals.BareTeacher(workload, tables)
    bare.start()
    queue = rivals.QueueTeacher(manager, workload, tables) if manager else None
    if queue:
        queue.start()
    with teacher(workload).start("tcp://127.0.0.1:0") as server:
        pipe.send((server.addresses[0], bare.port))
        while pipe.recv() == "go":
            assert queue is not None
            queue.goes.put(None)


def knowledge_bytes(value: object) -> int:
    """Bytes of the tensors in one field."""
    match value:
        case torch.Tensor():
            return value.nbytes
        case Ragged():
            return knowledge_bytes(value.values)
        case TopKLogits():
            return value.values.nbytes + value.indices.nbytes + value.tail.nbytes
    raise TypeError(type(value))


class Ours:
    """Our whole way, from the teacher's arrays to tensors in the student's batch."""

    def __init__(self, address: str, workload: Workload) -> None:
        self.loader = KnowledgeLoader(batch_size=workload.batch, teachers={"t": address})
        self.bytes = sum(knowledge_bytes(b.knowledge["logits"]) for b in self.loader)

    def block(self) -> int:
        """One epoch of the loader, which is one block."""
        for batch in self.loader:
            batch.knowledge["logits"]
        return self.bytes


def measure(block: Callable[[], int], pids: list[int]) -> tuple[float, float]:
    """MB/s and CPU seconds per GB (of both processes) of one block."""
    processes = [psutil.Process(p) for p in pids]
    cpu = [sum(p.cpu_times()[:2]) for p in processes]
    start = time.perf_counter()
    size = block()
    seconds = time.perf_counter() - start
    spent = sum(sum(p.cpu_times()[:2]) - c for p, c in zip(processes, cpu, strict=True))
    return size / 1e6 / seconds, spent / (size / 1e9)


def run(workload: Workload, pairs: int) -> dict[str, object]:
    """All blocks of one workload; answers the figures of its row."""
    context = multiprocessing.get_context("spawn")
    manager = rivals.start_manager() if workload.name == "W4" else None
    ours_end, theirs_end = context.Pipe()
    port = manager[1] if manager else None
    process = context.Process(target=serve, args=(workload.name, port, theirs_end), daemon=True)
    process.start()
    address, bare_port = ours_end.recv()
    pids = [process.pid or 0, multiprocessing.current_process().pid or 0]
    ways: dict[str, Callable[[], int]] = {
        "pantheon": Ours(address, workload).block,
        "bare": rivals.BareStudent(bare_port, workload.batches).block,
    }
    if manager:
        queue = rivals.connect_queue(manager[1])

        def pickled() -> int:
            ours_end.send("go")
            return sum(queue.get()["logits"].nbytes for _ in range(workload.batches))

        ways["queue"] = pickled
    results: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for i in range(pairs + 1):
        for name in random.sample(list(ways), len(ways)):
            result = measure(ways[name], pids)
            if i:  # the first round warms up
                results[name].append(result)
    ours_end.send("stop")
    process.join(10)
    if manager:
        manager[0].shutdown()
    return report(workload, results)


def report(workload: Workload, results: dict[str, list[tuple[float, float]]]) -> dict[str, object]:
    """Print one workload's rows and answer them."""
    ours = np.array([r[0] for r in results["pantheon"]])
    row: dict[str, object] = {"workload": workload.name, "what": workload.what}
    for name, figures in results.items():
        rate = np.median([r[0] for r in figures])
        # The kernel counts in hundredths of a second, longer than some blocks: only a mean is fine.
        cpu = np.mean([r[1] for r in figures])
        row[name] = {"mb_per_s": float(rate), "cpu_s_per_gb": float(cpu)}
        line = f"{workload.name} {name:9s} {rate:8.1f} MB/s {cpu:7.2f} CPU s/GB"
        if name != "pantheon":
            ratio = ours / np.array([r[0] for r in figures])
            low, middle, high = np.percentile(ratio, [25, 50, 75])
            row[f"ratio_{name}"] = [float(low), float(middle), float(high)]
            line += f"   pantheon/{name}: {middle:.2f} (quartiles {low:.2f} to {high:.2f})"
        print(line, flush=True)
    return row


def main() -> None:
    """Run the workloads asked for and write ``runs/bench/stream.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("--only", choices=sorted(WORKLOADS), action="append")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [run(WORKLOADS[name], options.pairs) for name in options.only or sorted(WORKLOADS)]
    path = Path("runs/bench/stream.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
