"""``pantheon inspect``: what a dump holds, or what a teacher serves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from pantheon.cli.output import facts, say_json, size, stdout
from pantheon.cli.serve import Json
from pantheon.errors import ShardError


def inspect(
    target: Annotated[str, typer.Argument(metavar="PATH_OR_ADDRESS")],
    rows: Annotated[int, typer.Option(min=0, help="How many samples to show.")] = 3,
    verify: Annotated[bool, typer.Option(help="Check every byte of a dump.")] = False,
    patience: Annotated[float, typer.Option(help="Seconds to wait for a teacher.")] = 10.0,
    keys: Annotated[
        Path | None, typer.Option(help="Folder of CURVE keys, for a teacher that asks for them.")
    ] = None,
    client: Annotated[str, typer.Option(help="Whose key to use.")] = "student",
    json: Json = False,
) -> None:
    """Show a dump (schema, shards, ids, sizes, revision, some rows) or a live teacher."""
    from student_client.sources import kind_of

    if kind_of(target) == "online":
        from pantheon.cli.live import describe_live
        from pantheon.cli.security import security_of

        found = describe_live(target, rows, patience, security_of(None, keys, client))
    else:
        from pantheon.store import describe

        found = describe(target, rows=rows)
        if verify:
            _verify(target)
            found["verified"] = True
    if json:
        say_json(found)
    else:
        _show(target, found)


def _verify(path: str) -> None:
    from pantheon.store import verify

    wrong = verify(path)
    if wrong:
        raise ShardError("\n".join(wrong))


def _show(target: str, found: Mapping[str, Any]) -> None:
    facts(
        target,
        {
            "model": found.get("model"),
            "revision": found["revision"] or "not stated",
            "dataset": found["dataset"],
            "samples": found["size"],
            "views": found["views"] or None,
            "ids": _ids(found),
            "answers": _answers(found),
            "schema": found["fingerprint"],
            "bytes": size(found["bytes"]) if "bytes" in found else None,
            "every byte": "checked" if found.get("verified") else None,
        },
    )
    facts("fields", {field["name"]: _field(field) for field in found["schema"]})
    if shards := found.get("shards"):
        facts(f"{len(shards)} shards", {s["shard"]: _shard(s) for s in shards[:10]})
        if len(shards) > 10:
            stdout.print(f"  … and {len(shards) - 10} more", markup=False)
    for row in found["sample"]:
        values = {k: _value(v) for k, v in row.items() if k not in ("id", "view")}
        facts(f"sample {row['id']}" + (f", view {row['view']}" if row["view"] else ""), values)


def _ids(found: Mapping[str, Any]) -> str | None:
    ids = found.get("ids")
    if not ids:
        return None
    ranges = ", ".join(f"{a}-{b - 1}" for a, b in ids["ranges"])
    return f"{ids['count']} ({ranges}{', …' if len(ids['ranges']) == 8 else ''})"


def _answers(found: Mapping[str, Any]) -> str | None:
    if "accepts_ids" not in found:
        return None
    return " and ".join(k for k in ("ids", "inputs") if found[f"accepts_{k}"])


def _field(field: Mapping[str, Any]) -> str:
    shape = ", ".join(map(str, field["shape"]))
    ragged = f", ragged by {field['ragged']}" if field["ragged"] else ""
    return f"{field['dtype']} [{shape}] as {field['codec']}{ragged}"


def _shard(shard: Mapping[str, Any]) -> str:
    return f"{shard['rows']} rows, {size(shard['bytes'])}, xxh3_64 {shard['xxh3_64']}"


def _value(value: Mapping[str, Any]) -> str:
    """A tensor's shape and first numbers; each part of a value made of several."""
    if "first" not in value:
        return "  ".join(f"{name} {_value(part)}" for name, part in value.items())
    numbers = ", ".join(f"{x:.4g}" for x in value["first"])
    more = ", …" if len(value["first"]) < math.prod(value["shape"]) else ""
    return f"{value['shape']} {numbers}{more}"
