"""Reading a YAML file as a section, and saying what is wrong with it, line by line."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from pantheon.config import marked_yaml
from pantheon.config.marked_yaml import Place
from pantheon.config.section import Section, spot
from pantheon.errors import ConfigError

Config = TypeVar("Config", bound=Section)


def load(path: str | os.PathLike[str], kind: type[Config]) -> Config:
    """Read a YAML file as `kind`.

    Raises:
        ConfigError: names each fault's file, line and key; for an unknown key the nearest valid
            one, for a wrong type what was expected and found.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from pantheon.config import TeacherConfig
        >>> file = Path(tempfile.mkdtemp(), "teacher.yaml")
        >>> _ = file.write_text("model: my.code:net\\nscema: {logits: float32}\\n")
        >>> try:
        ...     load(file, TeacherConfig)
        ... except ConfigError as error:
        ...     print(str(error).replace(str(file), "teacher.yaml")[:75])
        teacher.yaml:2: unknown key 'scema'; did you mean 'schema'? Valid keys here
    """
    data, lines = marked_yaml.read(path)
    file = os.fspath(path)
    try:
        config = kind.model_validate(data)
    except ValidationError as error:
        faults = [_explain(file, lines, kind, e) for e in error.errors(include_url=False)]
        raise ConfigError("\n".join(dict.fromkeys(faults))) from None
    config._settle(file, lines, ())
    return config


def _explain(
    file: str, lines: Mapping[Place, int], kind: type[Section], error: ErrorDetails
) -> str:
    """One fault in words."""
    place = _in_file(error["loc"], lines)
    where = spot(file, lines, place)
    if error["type"] == "extra_forbidden":
        key, valid = str(error["loc"][-1]), _keys(kind, error["loc"][:-1])
        near = difflib.get_close_matches(key, valid, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        line = spot(file, lines, place).split(": ")[0]
        return f"{line}: unknown key {key!r}{hint} Valid keys here: {', '.join(sorted(valid))}"
    if error["type"] == "missing":
        return f"{where}: {error['loc'][-1]!r} is missing; add it"
    message = error["msg"].removeprefix("Value error, ")
    told = isinstance(error["input"], dict | list) or repr(error["input"]) in message
    found = "" if told else f", found {error['input']!r}"
    return f"{where}: {message[:1].lower()}{message[1:]}{found}"


def _in_file(loc: Place, lines: Mapping[Place, int]) -> Place:
    """`loc` without what pydantic adds for the members of a union."""
    place: Place = ()
    for part in loc:
        if (*place, part) in lines:
            place = (*place, part)
    return place


def _keys(kind: type[BaseModel], loc: Place) -> list[str]:
    """The keys valid in the section at `loc`."""
    choice = [kind]
    for part in loc:
        # What pydantic adds for the member of a union, its tag or name, may be a key of another.
        members = [k for k in choice if part in (k.__name__, *_tags(k))] if choice[1:] else []
        fields = [
            info
            for kind in choice
            for name, info in kind.model_fields.items()
            if part == (info.alias or name)
        ]
        if members:
            choice = members
        elif fields:
            choice = list(_sections(fields[0].annotation)) or choice
    return [info.alias or name for name, info in choice[0].model_fields.items()]


def _tags(kind: type[BaseModel]) -> set[str]:
    """The values by which a member of a union of sections is told from the others."""
    stage = kind.model_fields.get("stage")
    return set() if stage is None else set(map(str, get_args(stage.annotation)))


def _sections(annotation: Any) -> Any:
    """The sections that an annotation mentions."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for inner in get_args(annotation):
        yield from _sections(inner)
