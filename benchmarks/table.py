"""The table in which every compression is judged: MobileNetV1 x 0.5 on real image regions.

Run ``python -m benchmarks.table [--jobs 2]``: trains what is missing, cell by cell (a row and a
seed), and goes on within a cell where it was stopped; every finished cell leaves a JSON record in
``benchmarks/results/table``, checkpoints stay in ``runs/table``. ``--write`` only makes
``docs/results.md`` and its picture from the records there are.

``benchmarks/table.yaml`` says what is run; a digest of what decides a cell is part of its record,
and records of other settings are refused. Honest by construction: the baseline B is trained E
epochs; B+ is B and F epochs more, with the schedule of the rows; every row is B and F epochs of its
own, from the same weights and with the same order of samples, and is compared with the better of B
and B+. All labels are used, the last checkpoint is taken, and the test part, whose views have
shifts that no training view has, is read when a cell is finished, and nothing is chosen by it.
``plateau`` is B+ with more epochs, to show that these would not do what the rows do.
"""

from __future__ import annotations

import argparse
import concurrent.futures
from collections.abc import Sequence

from benchmarks.table_cells import Table
from benchmarks.table_page import write


def train(table: Table, jobs: int) -> None:
    """Run what is missing, `jobs` cells at a time, each after those that it needs."""
    waiting: dict[tuple[str, int], concurrent.futures.Future[None]] = {}
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        # What a cell needs was submitted before it, so that one that waits, waits for others that
        # run.
        for cell in table.missing():
            needs = [waiting[need] for need in table.needs(*cell) if need in waiting]
            waiting[cell] = pool.submit(_run, table, *cell, needs)
        try:
            for each in concurrent.futures.as_completed(waiting.values()):
                each.result()
        except BaseException as error:
            print(f"no other cell is begun: {error!r}", flush=True)
            pool.shutdown(cancel_futures=True)
            raise


def _run(
    table: Table, row: str, seed: int, needs: Sequence[concurrent.futures.Future[None]]
) -> None:
    for need in needs:
        need.result()
    table.run(row, seed)
    found = table.record(row, seed)
    assert found is not None
    print(f"{row}, seed {seed}: {found['top1']:.2f} % of the test views", flush=True)


def main() -> None:
    """Run what is missing, or write the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--write", action="store_true", help="only make the page")
    given = parser.parse_args()
    table = Table()
    if not given.write:
        train(table, given.jobs)
    write(table)


if __name__ == "__main__":
    main()
