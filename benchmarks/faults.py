"""What faults cost: a killed replica's work, a stopped and a slow replica, a stopped student.

Run ``python -m benchmarks.faults [--kills 12] [--rounds 4] [--memory 60]``. Teachers do nothing but
take 20 ms for each request of 32 rows; their heartbeat is 1 s, up to 8 requests are in flight at
each, and the student asks for at most 128 requests ahead.

- *kill*: seconds from SIGKILL of one of 3 replicas until others have answered all it had been
  asked. Goal: under 2 heartbeats.
- *stopped*: batches a second with one of 4 replicas stopped (SIGSTOP), beside 3 replicas: over the
  9 s from the stop on, and over the last 4 of these. Goal: 0.95 of the rate of 3.
- *slow*: batches a second with one of 4 replicas ten times slower than the others, beside the sum
  of the rates of the four when each is asked alone. Goal: 0.9 of the sum.
- *memory*: resident memory of a teacher and its student while the student is stopped. Goal: flat.

Rounds of the conditions are interleaved; ratios are taken within a round.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import signal
import statistics
import time
from collections.abc import Iterator, Sequence
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any, cast

import numpy as np
import psutil

from benchmarks.replicas import CLASSES, ROWS, Replica, replicas
from student_client import KnowledgeLoader
from student_client.delivery import Delivery

REQUEST_S = 0.02
SLOWER = 10
AHEAD = 128
HEARTBEAT_S = 1.0
NOTICE_S = 5.0
"""Seconds after a stop until it is surely known: more than 3 heartbeats."""

LARGE = 8192
"""Classes of the teacher whose memory is watched: 1 MiB an answer."""


def loader(chosen: Sequence[Replica]) -> KnowledgeLoader:
    """A student of some replicas."""
    return KnowledgeLoader(
        batch_size=ROWS,
        request_rows=ROWS,
        window_bytes=AHEAD * ROWS * CLASSES * 4,
        teachers={"t": [r.address for r in chosen]},
    )


def read(batches: Iterator[Any], seconds: float) -> float:
    """Batches a second over some seconds."""
    start, count = time.perf_counter(), 0
    while (spent := time.perf_counter() - start) < seconds:
        next(batches)
        count += 1
    return count / spent


def rate(chosen: Sequence[Replica], seconds: float) -> float:
    """Batches a second of some replicas, after a second of beginning."""
    with loader(chosen) as student:
        batches = iter(student)
        read(batches, 1.0)
        return read(batches, seconds)


class Watched:
    """Notes when all that one replica was asked for has been answered by others."""

    def __init__(self, delivery: Delivery, victim: Replica) -> None:
        asked = delivery.outbox.asked.values()
        held = {a.assignment.request for a in asked if a.replica.address == victim.address}
        self.held, self.seconds = len(held), 0.0
        self._delivery = cast("Any", delivery)
        self._missing, self._keep = held, self._delivery._keep
        self._delivery._keep = self._kept
        self._start = time.perf_counter()
        victim.kill()

    def _kept(self, assignment: Any, *rest: Any) -> None:
        self._keep(assignment, *rest)
        self._missing.discard(assignment.request)
        if not self._missing and not self.seconds:
            self.seconds = time.perf_counter() - self._start


def kills(count: int) -> dict[str, Any]:
    """Kill one of three, wait until it is back, again and again."""
    times, held = [], []
    with replicas(*[REQUEST_S] * 3) as three, loader(three) as student:
        batches = iter(student)
        for i in range(count):
            read(batches, 0.5 + random.random())
            while student.stats().teachers["t"].replicas < 3:
                next(batches)
            victim = three[i % 3]
            watched = Watched(batches.epoch.delivery, victim)
            while not watched.seconds:
                next(batches)
            times.append(watched.seconds)
            held.append(watched.held)
            victim.close()
            victim.start()
    print(
        f"kill: its work (median {statistics.median(held):g} requests) was done elsewhere after "
        f"median {statistics.median(times):.3f} s, maximum {max(times):.3f} s ({count} kills, "
        f"heartbeat {HEARTBEAT_S:g} s; goal: under {2 * HEARTBEAT_S:g} s)",
        flush=True,
    )
    return {"kill_s": times, "kill_held": held}


def rates_with_one_stopped(four: Sequence[Replica], seconds: float) -> tuple[float, float]:
    """Batches a second from some seconds after a stop on, and from the stop on."""
    with loader(four) as student:
        batches = iter(student)
        read(batches, 1.0)
        with four[0].stopped():
            start = time.perf_counter()
            before = read(batches, NOTICE_S) * NOTICE_S
            noticed = read(batches, seconds)
            spent = time.perf_counter() - start
    return noticed, (before + noticed * seconds) / spent


def rounds(count: int, seconds: float = 4.0) -> dict[str, Any]:
    """Rates of 3 replicas, of 4 with one stopped, of 4 with one slow, and of one of each alone."""
    found: dict[str, list[float]] = {}
    with replicas(*[REQUEST_S] * 4, SLOWER * REQUEST_S) as all_five:
        four, slow = all_five[:4], all_five[4]
        for _ in range(count):
            three = rate(four[1:], seconds)
            noticed, whole = rates_with_one_stopped(four, seconds)
            mixed = rate([*four[1:], slow], seconds)
            total = 3 * rate(four[1:2], seconds / 2) + rate([slow], seconds)
            for name, value in (
                ("three", three),
                (f"stopped / three, from {NOTICE_S:g} s after the stop on", noticed / three),
                ("stopped / three, from the stop on", whole / three),
                ("slow / sum of rates", mixed / total),
            ):
                found.setdefault(name, []).append(value)
    for name, values in found.items():
        low, middle, high = np.percentile(values, [25, 50, 75])
        print(f"{name}: median {middle:.3f} (quartiles {low:.3f} to {high:.3f}, {count} rounds)")
    print(
        f"(requests of {REQUEST_S * 1000:g} ms, {AHEAD} ahead, 8 in flight at each replica; slow: "
        f"{SLOWER} times slower; goals: 0.95 of three, 0.9 of the sum)",
        flush=True,
    )
    return found


def learn(address: str, count: Synchronized[int]) -> None:
    """A student that reads for ever, with the window as it is by default."""
    with KnowledgeLoader(batch_size=ROWS, teachers={"t": address}) as student:
        for _ in student:
            count.value += 1


def memory(seconds: float) -> dict[str, Any]:
    """Resident memory of both sides while the student is stopped."""
    context = multiprocessing.get_context("forkserver")
    count = context.Value("q", 0)
    with replicas(0.0, classes=LARGE) as (teacher,):
        process = context.Process(target=learn, args=(teacher.address, count), daemon=True)
        process.start()
        time.sleep(5)
        sides = {"teacher": psutil.Process(teacher.pid), "student": psutil.Process(process.pid)}
        os.kill(process.pid or 0, signal.SIGSTOP)
        stopped_at = count.value
        samples: dict[str, list[float]] = {name: [] for name in sides}
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            time.sleep(1)
            for name, side in sides.items():
                samples[name].append(side.memory_info().rss / 2**20)
        os.kill(process.pid or 0, signal.SIGCONT)
        time.sleep(3)
        went_on = count.value - stopped_at
        process.kill()
        process.join()
    for name, values in samples.items():
        print(
            f"memory of the {name} while the student is stopped for {seconds:g} s: first "
            f"{values[0]:.0f}, least {min(values):.0f}, most {max(values):.0f}, last "
            f"{values[-1]:.0f} MiB"
        )
    print(f"batches in the 3 s after it was continued: {went_on}", flush=True)
    return {"memory_mib": samples, "went_on": went_on}


def main() -> None:
    """Run all and write ``runs/bench/faults.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--memory", type=float, default=60)
    options = parser.parse_args()
    figures: dict[str, Any] = {}
    if options.kills:
        figures |= kills(options.kills)
    if options.rounds:
        figures |= rounds(options.rounds)
    if options.memory:
        figures |= memory(options.memory)
    path = Path("runs/bench/faults.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
