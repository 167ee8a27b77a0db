"""A page about compression runs: one HTML file that needs nothing else, and its pictures.

A section of the page is made by a panel, a function from runs to a `Section`; see `panel` for how
to add one.
"""

from pantheon.compress.report_page.page import write_page
from pantheon.compress.report_page.panels import Choice, panel
from pantheon.compress.report_page.runs import Run, load_run, load_runs
from pantheon.compress.report_page.section import Cell, Heading, Picture, Section, Table, Tiles

__all__ = [
    "Cell",
    "Choice",
    "Heading",
    "Picture",
    "Run",
    "Section",
    "Table",
    "Tiles",
    "load_run",
    "load_runs",
    "panel",
    "write_page",
]
