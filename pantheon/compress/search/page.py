"""The page of a search: its history, its front, and which choices mattered."""

from __future__ import annotations

from pathlib import Path

from optuna.study import Study

from pantheon.compress.report_page.page import write_sections
from pantheon.compress.report_page.searches import searched
from pantheon.compress.report_page.section import Section
from pantheon.compress.search.config import SearchConfig
from pantheon.compress.search.telling import told_of

SCORED = "Scores are of the validation part, after a short training each."
"""What is said of all figures."""


def write_search_page(config: SearchConfig, study: Study, folder: Path) -> Path:
    """Write ``report.html`` and its pictures into a folder.

    Returns:
        The page.

    Raises:
        ConfigError: jinja2 or matplotlib is not installed.
        StoreError: the folder or a file of it cannot be written.
    """
    parts = list(searched(config.name, told_of(config, study))) or ["Nothing was tried yet."]
    found = [Section("Search", parts)]
    return write_sections(f"Search report: {config.name}", found, folder, SCORED)[0]
