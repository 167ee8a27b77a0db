"""``pantheon dump``: a teacher's knowledge, written to shards."""

from __future__ import annotations

import contextlib
from dataclasses import asdict
from typing import Annotated

import typer

from pantheon.cli.output import progress, say_json, size, stdout
from pantheon.cli.serve import HttpOption, Json, TeacherFile
from pantheon.config import TeacherConfig, load
from pantheon.errors import ConfigError


def dump(
    teacher: TeacherFile,
    path: Annotated[str, typer.Argument(help="A folder, or any fsspec path such as s3://…")],
    views: Annotated[int, typer.Option(help="Dump views 1 to K of every sample; 0: none.")] = 0,
    http: HttpOption = None,
    json: Json = False,
) -> None:
    """Score a teacher's whole dataset into a folder of shards.

    Stopped anywhere, the same command goes on with what is missing. Under torchrun the processes
    share the work.
    """
    config = load(teacher, TeacherConfig)
    if config.dataset is None:
        raise ConfigError(
            f"{teacher}: a dump needs the dataset whose samples it scores; add dataset: "
            "package.module:function"
        )
    from pantheon.cli.teacher import teacher_from
    from pantheon.probes import Probes
    from teacher_server.dump_metrics import DumpProgress

    how_far = DumpProgress()

    def advance(done: int, wanted: int) -> None:
        how_far(done, wanted)
        bar.update(task, completed=done, total=wanted)

    with contextlib.ExitStack() as stack:
        if http is not None:
            probes = stack.enter_context(Probes(http, how_far, how_far.health))
            if not json:
                stdout.print(f"metrics and health at {probes.address}", markup=False)
        bar = stack.enter_context(progress(hidden=json))
        task = bar.add_task("dump", total=None, note="samples")
        report = teacher_from(config).dump(
            path,
            views=views or config.views or None,
            shard_rows=config.shard_rows,
            progress=advance,
        )
    if json:
        say_json(asdict(report) | {"path": path})
        return
    rate = report.rows / report.seconds if report.seconds else 0
    stdout.print(
        f"{path}: wrote {report.written} shards with {report.rows} rows, {size(report.bytes)}, in "
        f"{report.seconds:.1f} s ({rate:.0f} rows/s); {report.skipped} were there already",
        markup=False,
    )
