"""Fuzz all formats and print a table: ``python -m tests.fuzz [RUNS] [FORMAT ...]``."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from tests.fuzz import FORMATS
from tests.fuzz.target import MEMORY_BYTES, SECONDS

ROOT = Path(__file__).parents[2]


def last(pattern: str, text: str) -> int:
    """The number in the last place where a pattern is found."""
    found = re.findall(pattern, text)
    return int(found[-1]) if found else -1


def fuzz(name: str, runs: int) -> bool:
    """Fuzz one format and print its line; whether nothing was found."""
    folder = ROOT / "build" / "fuzz" / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "tests.fuzz.guided", name, str(runs), str(folder)]
    start = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - start
    said = done.stdout + done.stderr
    units = last(r"number_of_executed_units: (\d+)", said)
    taken = last(r"peak_rss_mb: +(\d+)", said) - last(r"before: (\d+)", said)
    branches = last(r"cov: (\d+)", said)
    print(
        f"{name:10} {units:9} {units / seconds:9.0f} {taken:9} {branches:9} {seconds:9.0f}",
        flush=True,
    )
    if done.returncode:
        told = [line for line in said.splitlines() if not line.startswith("#")]
        print(*told[-60:], f"the input is in {folder}", sep="\n", file=sys.stderr)
    return done.returncode == 0


def main(runs: int, names: list[str]) -> int:
    """Fuzz formats one after the other; 1 if anything was found."""
    print(f"at most {MEMORY_BYTES >> 20} MiB and {SECONDS} s an input")
    print(f"{'format':10} {'runs':>9} {'runs/s':>9} {'peak MiB':>9} {'branches':>9} {'s':>9}")
    quiet = [fuzz(name, runs) for name in names]
    return 0 if all(quiet) else 1


if __name__ == "__main__":
    arguments = sys.argv[1:]
    sys.exit(main(int(arguments[0]) if arguments else 1_000_000, arguments[1:] or list(FORMATS)))
