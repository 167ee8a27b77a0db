"""``pantheon serve``: teachers from YAML files, answering online."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pantheon.cli.output import say_json, stdout
from pantheon.cli.stdin import stop_with_stdin
from pantheon.config import TeacherConfig, load
from pantheon.errors import ConfigError

Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
HttpOption = Annotated[
    str | None,
    typer.Option(help="HOST:PORT for metrics and health by HTTP, such as 127.0.0.1:9464."),
]
TeacherFile = Annotated[Path, typer.Argument(metavar="TEACHER.YAML")]


def serve(
    teachers: Annotated[list[Path], typer.Argument(metavar="TEACHER.YAML...")],
    bind: Annotated[
        list[str] | None,
        typer.Option(help="Address to serve at, such as tcp://127.0.0.1:5557; may be repeated."),
    ] = None,
    keys: Annotated[
        Path | None,
        typer.Option(help="Folder of CURVE keys, as pantheon keygen makes them."),
    ] = None,
    insecure: Annotated[
        bool, typer.Option(help="Serve beyond this machine without keys: anybody may ask.")
    ] = False,
    http: HttpOption = None,
    until_stdin_ends: Annotated[
        bool,
        typer.Option(help="Stop when standard input ends, as it does when its writer dies."),
    ] = False,
    json: Json = False,
) -> None:
    """Serve teachers until told to stop (SIGTERM or Ctrl-C).

    Several files are several models of one server, told apart by their `name`. Port 0 takes a free
    port; the addresses in use are printed once the server answers.
    """
    configs = [load(path, TeacherConfig) for path in teachers]
    addresses = bind or [address for config in configs for address in config.bind]
    if not addresses:
        raise ConfigError(
            f"{teachers[0]} binds no address and --bind was not given; add --bind "
            "tcp://127.0.0.1:0, or bind: [tcp://127.0.0.1:5557] to the file"
        )
    from pantheon.cli.teacher import name_of, teacher_from
    from teacher_server import serve as serve_all

    models = {name_of(config, path): config for config, path in zip(configs, teachers, strict=True)}
    if len(models) != len(configs):
        raise ConfigError(f"the teachers' names must differ; found {', '.join(models)} only")

    from pantheon.cli.security import security_of

    if until_stdin_ends:
        stop_with_stdin()
    serve_all(
        {name: teacher_from(config) for name, config in models.items()},
        *addresses,
        security=security_of(configs[0].security, keys),
        insecure=insecure,
        http=http or next((c.http for c in configs if c.http), None),
        ready=lambda bound: _announce(list(models), bound, json),
    )


def _announce(models: list[str], bound: list[str], json: bool) -> None:
    """Say at which addresses a server answers."""
    watched = [a for a in bound if a.startswith("http://")]
    bound = [a for a in bound if a not in watched]
    if json:
        where = {"http": watched[0]} if watched else {}
        say_json({"addresses": bound, "models": models} | where)
        return
    for address in bound:
        stdout.print(f"serving {', '.join(models)} at {address}", markup=False)
    for address in watched:
        stdout.print(f"metrics and health at {address}", markup=False)
