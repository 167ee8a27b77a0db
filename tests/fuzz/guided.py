"""Fuzz one format, guided by coverage: ``python -m tests.fuzz.guided FORMAT RUNS FOLDER``.

The process kills itself on an error that is not documented, an input that takes too long, or more
memory than stated; the input is then left in the folder.
"""

from __future__ import annotations

import importlib
import resource
import sys
from pathlib import Path
from random import Random

import atheris

from tests.fuzz.target import MAX_INPUT, MEMORY_BYTES, SECONDS, Target

ROOM = 2
"""Address space is taken in larger pieces than memory, and the fuzzer keeps its corpus."""


def load(name: str) -> Target:
    """A format's target, with the project's code instrumented."""
    with atheris.instrument_imports(include=["pantheon", "student_client"]):
        target = importlib.import_module(f"tests.fuzz.{name}").TARGET
    assert isinstance(target, Target)
    return target


def status(key: str) -> int:
    """A number of bytes that the kernel tells of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(f"{key}:"))) << 10


def bound_memory() -> int:
    """Refuse this process more memory than one input may take; the memory it has now, in MiB."""
    most = status("VmSize") + ROOM * MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    return status("VmRSS") >> 20


def mutator(target: Target):  # type: ignore[no-untyped-def]  # atheris has no types
    """Changes that know the format, and now and then those that know only bytes."""

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        rng = Random(seed)
        if rng.random() < 0.1:
            return bytes(atheris.Mutate(data, max_size))
        return target.mutate(data, rng)[:max_size]

    return mutate


def main(name: str, runs: str, folder: str) -> None:
    """Fuzz until so many inputs were read."""
    target = load(name)
    corpus = Path(folder, "corpus")
    corpus.mkdir(parents=True, exist_ok=True)
    for i, seed in enumerate(target.seeds()):
        (corpus / f"seed-{i}").write_bytes(seed)
    before = bound_memory()
    print(f"before: {before}", flush=True)
    options = [
        f"-runs={runs}",
        f"-max_len={MAX_INPUT}",
        "-len_control=0",
        f"-timeout={SECONDS}",
        f"-rss_limit_mb={before + (MEMORY_BYTES >> 20)}",
        f"-artifact_prefix={folder}/",
        "-print_final_stats=1",
        str(corpus),
    ]
    atheris.Setup([name, *options], target, custom_mutator=mutator(target))
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
