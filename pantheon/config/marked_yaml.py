"""YAML with the line of every key: what a checked configuration needs to say where a fault is."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from pantheon.errors import ConfigError

Place = tuple[str | int, ...]
"""Keys and indices from the top of a document to a value."""

MAX_BYTES = 1 << 20
MAX_DEPTH = 32


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], Mapping[Place, int]]:
    """A YAML file's mapping, and the line (from 1) of every key and item in it.

    Raises:
        ConfigError: the file is absent, too large, not YAML, not a mapping, or says a key twice.
    """
    text = _text(Path(path))
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        lines: dict[Place, int] = {}
        if not isinstance(node, yaml.MappingNode):
            found = "nothing" if node is None else "a list or a single value"
            raise ConfigError(f"{path}: expected a mapping of keys to values, found {found}")
        _mark(node, (), lines, str(path))
        return loader.construct_document(node), lines
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise ConfigError(f"{where}: this is not YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: this is not YAML: {error}") from error
    finally:
        loader.dispose()


def _text(path: Path) -> str:
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ConfigError(
                f"{path} has {size} bytes; a configuration has at most {MAX_BYTES}: is this the "
                "right file?"
            )
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(f"there is no file {path} (seen from {Path.cwd()})") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error


def _mark(node: yaml.Node, place: Place, lines: dict[Place, int], path: str) -> None:
    """Note the line of every key and item below `node`; a key said twice raises."""
    if len(place) > MAX_DEPTH:  # an anchor inside itself never ends
        raise ConfigError(f"{path}:{node.start_mark.line + 1}: nested deeper than {MAX_DEPTH}")
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = (*place, str(key.value))
            if inner in lines:
                raise ConfigError(
                    f"{path}:{key.start_mark.line + 1}: {key.value!r} was already said in line "
                    f"{lines[inner]}; keep one of the two"
                )
            lines[inner] = key.start_mark.line + 1
            _mark(value, inner, lines, path)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            lines[(*place, index)] = value.start_mark.line + 1
            _mark(value, (*place, index), lines, path)
