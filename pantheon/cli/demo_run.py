"""The demo, from the teachers' training to the report."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from pantheon.cli.demo_teachers import prepare
from pantheon.cli.output import progress, say_json, size, stdout
from pantheon.cli.streams import serving
from pantheon.cli.teacher import teacher_from
from pantheon.demo import pictures, recipe
from pantheon.demo.data import LABELLED
from pantheon.demo.report import WAYS, Report
from student_client import KnowledgeLoader

SOURCES: Mapping[str, tuple[str, ...]] = {"a": ("a",), "b": ("b",), "both": ("a", "b")}
"""The teachers of each way to learn; alone has none."""


def run(seeds: int, epochs: int, out: Path, quiet: bool) -> None:
    """Train, dump, serve, distil; then print the table and write report and pictures."""
    began = time.monotonic()
    torch.set_num_threads(1)
    say: Callable[[str], None] = (
        (lambda text: None) if quiet else lambda text: stdout.print(text, markup=False)
    )
    settings = {"seeds": seeds, "epochs": epochs, "labels": LABELLED, "torch": _torch()}
    report = Report(settings)
    teachers = prepare(out, report, say)
    knowledge = out / "knowledge-b"
    dumped = teacher_from(teachers["b"]).dump(str(knowledge))
    say(f"teacher B: {dumped.rows} digits dumped to {knowledge} in {dumped.seconds:.1f} s")
    with serving(out / "teacher-a.yaml") as address:
        say(f"teacher A: serving at {address}, in a process of its own")
        _distil(report, {"a": address, "b": str(knowledge)}, quiet)
    settings["seconds"] = round(time.monotonic() - began, 1)
    report.write(out / "report.json")
    drawn = pictures.draw(report, out)
    if quiet:
        say_json(json.loads((out / "report.json").read_text()))
        return
    for line in table(report):
        say(line)
    say(f"{settings['seconds']:.0f} s; wrote {out / 'report.json'}, {', '.join(map(str, drawn))}")


def _torch() -> str:
    return str(torch.__version__)


def _distil(report: Report, teachers: Mapping[str, str], quiet: bool) -> None:
    """Train the students of every way and seed."""
    seeds, epochs = report.settings["seeds"], report.settings["epochs"]
    with progress(hidden=quiet) as bar:
        task = bar.add_task("students", total=seeds * len(WAYS) * epochs, note="")
        for seed in range(seeds):
            for way, name in WAYS.items():
                bar.update(task, note=f"epochs  {name}, seed {seed}")
                history, counts = _student(way, seed, epochs, teachers, lambda: bar.advance(task))
                curve = [epoch.metrics["accuracy"] for epoch in history]
                report.curves.setdefault(way, []).append(curve)
                report.add_stream(way, counts)


def _student(
    way: str, seed: int, epochs: int, teachers: Mapping[str, str], tick: Callable[[], None]
) -> tuple[list[Any], dict[str, float]]:
    """One student; what its epochs came to, and what its stream did."""
    part = recipe.student_part(seed)
    if way == "alone":
        stream = recipe.LabelledStream(part, seed)
        history = recipe.train_student(
            stream, seed, epochs, knowledge=False, on_epoch=lambda _: tick()
        )
        return history, {}
    with KnowledgeLoader(
        part,
        recipe.BATCH,
        teachers={name: teachers[name] for name in SOURCES[way]},
        merge={"logits": "mean"},
        shuffle=True,
        seed=seed,
    ) as loader:
        history = recipe.train_student(loader, seed, epochs, on_epoch=lambda _: tick())
        received = sum(t.bytes for t in loader.stats().teachers.values())
    return history, {
        "batches": epochs * len(loader),
        "samples": sum(epoch.samples for epoch in history),
        "bytes": received,
        "seconds": sum(epoch.seconds for epoch in history),
        "wait": sum(epoch.wait for epoch in history),
    }


def table(report: Report) -> list[str]:
    """The accuracies and rates, a line for each way to learn."""
    lines = ["", f"{'the student learns':<20} {'accuracy, %':>12} {'samples/s':>10} {'waiting':>8}"]
    for way, name in WAYS.items():
        line = f"{name:<20} {100 * report.mean(way):>5.1f} ± {100 * report.deviation(way):<4.1f}"
        counts = report.streams.get(way)
        if counts:
            rate, wait = counts["samples"] / counts["seconds"], counts["wait"] / counts["seconds"]
            line += f" {rate:>10.0f} {wait:>8.0%}"
        lines.append(line.rstrip())
    received = sum(counts["bytes"] for counts in report.streams.values())
    count = report.settings["seeds"]
    seeds = f"{count} seeds" if count > 1 else "1 seed"
    return [
        *lines,
        "",
        f"Held-out accuracy of a 16-unit student, mean ± sd over {seeds}; the teachers have "
        + " and ".join(f"{100 * a:.1f}" for a in report.teachers.values())
        + ".",
        f"Learning from both adds {100 * report.gain:.1f} points; {size(received)} of knowledge "
        "came through the streams.",
    ]
