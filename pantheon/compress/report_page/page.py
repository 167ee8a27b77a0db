"""The page: sections as one HTML file that needs nothing else, and its pictures beside it."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

from pantheon.compress.report_page.drawing import png
from pantheon.compress.report_page.panels import Choice, sections
from pantheon.compress.report_page.runs import Run
from pantheon.compress.report_page.section import Picture, Section
from pantheon.errors import ConfigError, StoreError
from pantheon.saving import whole_file

PAGE = "report.html"
"""The page's name in its folder; its pictures are ``report-*.png``."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """A picture as it is written: the file's name, its bytes, and how wide it is shown."""

    name: str
    content: bytes
    width: int

    @property
    def data(self) -> str:
        """The bytes in base 64."""
        return base64.b64encode(self.content).decode("ascii")


def write_page(
    runs: Sequence[Run], folder: str | os.PathLike[str], choice: Choice | None = None
) -> tuple[Path, list[Path]]:
    """Write ``report.html`` and its pictures into a folder, which is made where it is missing.

    Args:
        runs: what to tell of, see `pantheon.compress.report_page.load_runs`.
        folder: where to; files of the same names are replaced.
        choice: which metric models are judged by.

    Returns:
        The page, and the pictures.

    Raises:
        ConfigError: jinja2 or matplotlib is not installed, or no model has the metric.
        StoreError: the folder or a file of it cannot be written.
    """
    check_packages()
    names = ", ".join(run.name for run in runs)
    found = sections(runs, choice or Choice())
    return write_sections(f"Compression report: {names}", found, folder, MEASURED)


MEASURED = (
    "Point at a figure to see all its digits. All models were measured as they were read back from "
    "disk, metrics on the validation part."
)
"""What is said of all figures of a compression run."""


def write_sections(
    title: str, found: Sequence[Section], folder: str | os.PathLike[str], note: str
) -> tuple[Path, list[Path]]:
    """Write a page of some sections, as `write_page` does.

    Args:
        title: of the page.
        found: what is on it.
        folder: where to.
        note: is said at its end.

    Raises:
        ConfigError: jinja2 or matplotlib is not installed.
        StoreError: the folder or a file of it cannot be written.
    """
    check_packages()
    pictures = draw(found)
    text = render(title, found, pictures, note)
    return write_files(Path(folder), text, list(pictures.values()))


def check_packages() -> None:
    """Make sure that what pages are made with is installed.

    Raises:
        ConfigError: it is not.
    """
    missing = [name for name in ("jinja2", "matplotlib") if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"a report needs {' and '.join(missing)}, which is not installed; install "
            "pantheon-kd[compress]"
        )


def draw(found: Sequence[Section]) -> dict[int, Drawn]:
    """The pictures of all sections, by their `id`, under file names that differ."""
    drawn: dict[int, Drawn] = {}
    taken: set[str] = set()
    for section in found:
        for part in section.parts:
            if isinstance(part, Picture) and id(part) not in drawn:
                name = _free(f"report-{slug(part.name)}", taken)
                inches = part.figure.get_size_inches()[0]
                drawn[id(part)] = Drawn(f"{name}.png", png(part.figure), round(96 * inches))
    return drawn


def slug(text: str) -> str:
    """A text as part of a file's name.

    Example:
        >>> slug("Curves ../<b>: distil"), slug("???")
        ('curves-b-distil', 'picture')
    """
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60] or "picture"


def _free(name: str, taken: set[str]) -> str:
    """A name that is not taken yet, and now is."""
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}-{number}"
    taken.add(free)
    return free


def render(title: str, found: Sequence[Section], pictures: dict[int, Drawn], note: str) -> str:
    """The page's text; all that comes from the runs is escaped."""
    from jinja2 import Environment, StrictUndefined

    # Never by a file's name: whatever the template is called, it escapes.
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    source = files(__package__).joinpath("page.html.jinja").read_text(encoding="utf-8")
    return environment.from_string(source).render(
        title=title,
        sections=found,
        drawn=lambda part: pictures[id(part)],
        version=_version(),
        note=note,
    )


def _version() -> str:
    try:
        return version("pantheon-kd")
    except PackageNotFoundError:
        return "(not installed)"


def write_files(folder: Path, text: str, pictures: Sequence[Drawn]) -> tuple[Path, list[Path]]:
    """Write the pictures and then the page, each whole or not at all."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for picture in pictures:
            whole_file.write(folder / picture.name, picture.content)
        whole_file.write(folder / PAGE, text.encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise StoreError(
            f"cannot write the report into {folder}: {error.strerror or error}; give a folder "
            "that can be written by --out"
        ) from error
    return folder / PAGE, [folder / picture.name for picture in pictures]
