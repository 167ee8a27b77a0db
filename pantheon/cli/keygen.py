"""``pantheon keygen``: CURVE keys for a server and its clients."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pantheon.cli.output import say_json, stdout
from pantheon.cli.serve import Json


def keygen(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER")],
    client: Annotated[
        list[str] | None,
        typer.Option(help="Name of a client to make a key for; may be repeated."),
    ] = None,
    json: Json = False,
) -> None:
    """Make the keys of a teacher and its students; those that are there stay.

    A teacher needs server.key_secret and the folder clients, which lists who may come in; a student
    needs server.key and its own NAME.key_secret.
    """
    from pantheon.transport.keys import generate

    made = generate(folder, client or ["student"])
    if json:
        say_json({"made": [str(path) for path in made]})
        return
    for path in made:
        stdout.print(f"made {path}", markup=False)
    if not made:
        stdout.print(f"all keys are in {folder} already", markup=False)
