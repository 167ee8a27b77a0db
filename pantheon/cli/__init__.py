"""The command line: the one place of the core that knows both its siblings."""

from pantheon.cli.application import app as app
from pantheon.cli.application import main as main

__all__ = ["app", "main"]
