"""A mapping in a YAML file, which knows the file and the lines that it was read from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, PrivateAttr

from pantheon.config.marked_yaml import Place


def written(pattern: str, words: str) -> AfterValidator:
    """Text of a form.

    Args:
        pattern: which all of it has to match.
        words: what errors say was expected.
    """

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"expected {words}")
        return text

    return AfterValidator(check)


Reference = Annotated[str, written(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*", "package.module:function")]
"""``package.module:function``: the user's own code, named in the user's own configuration."""

Arguments = dict[str, Any]


class Section(BaseModel):
    """A mapping in a YAML file: unknown keys and wrong types raise."""

    model_config = ConfigDict(extra="forbid", populate_by_name=False, frozen=True)
    _file: str = PrivateAttr(default="")
    _lines: Mapping[Place, int] = PrivateAttr(default_factory=dict)
    _place: Place = PrivateAttr(default=())

    def where(self, *place: str | int) -> str:
        """``file:line: key`` of a value in this section, for messages."""
        return spot(self._file, self._lines, (*self._place, *place))

    def _settle(self, file: str, lines: Mapping[Place, int], place: Place) -> None:
        """Tell this section and those in it where they were read."""
        self._file, self._lines, self._place = file, lines, place
        for name, info in type(self).model_fields.items():
            _settle_in(getattr(self, name), file, lines, (*place, info.alias or name))


def _settle_in(value: Any, file: str, lines: Mapping[Place, int], place: Place) -> None:
    if isinstance(value, Section):
        value._settle(file, lines, place)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _settle_in(item, file, lines, (*place, index))
    elif isinstance(value, dict):
        for key, item in value.items():
            _settle_in(item, file, lines, (*place, key))


def spot(file: str, lines: Mapping[Place, int], place: Place) -> str:
    """``file:line: key`` of a place in a file; the key alone where there is no file.

    >>> spot("student.yaml", {("optimizer", "lr"): 7}, ("optimizer", "lr"))
    'student.yaml:7: optimizer.lr'
    >>> spot("", {}, ("name",))
    'name'
    """
    key = ".".join(map(str, place))
    if not file:
        return key
    line = lines.get(place, 1)
    return f"{file}:{line}: {key}" if place else f"{file}:{line}"
