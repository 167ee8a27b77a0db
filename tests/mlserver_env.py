"""A Python with MLServer, in an environment of its own: it wants other versions than ours.

``make integration`` makes ``.venv-mlserver`` once; ``python -m tests.mlserver_env`` does the same.
``PANTHEON_MLSERVER_PYTHON`` names another Python that has MLServer.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
HOME = ROOT / ".venv-mlserver"
CONSTRAINTS = ROOT / "tests" / "mlserver-constraints.txt"


def mlserver_python() -> Path:
    """The Python to run MLServer with; the environment is made when it is not there."""
    named = os.environ.get("PANTHEON_MLSERVER_PYTHON")
    if named:
        return Path(named)
    if not (HOME / ".installed").exists():
        _make()
    return HOME / "bin" / "python"


def _make() -> None:
    venv.create(HOME, with_pip=True)
    install = [str(HOME / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    install += ["--disable-pip-version-check", "-c", str(CONSTRAINTS)]
    install += [*shlex.split(os.environ.get("PIP_ARGS", "")), "mlserver"]
    subprocess.run(install, check=True)
    (HOME / ".installed").touch()


if __name__ == "__main__":
    sys.stdout.write(f"{mlserver_python()}\n")
