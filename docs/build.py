"""Builds the documentation: these pages and the API reference as HTML.

Run ``python docs/build.py FOLDER``. A page with a link to a file that is not there stops the build.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
import shutil
import sys
from pathlib import Path
from types import ModuleType

import markdown2
import pdoc

DOCS = Path(__file__).parent
PACKAGES = ("pantheon", "teacher_server", "student_client")
EXTRAS = ["fenced-code-blocks", "tables", "header-ids"]

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title} - Pantheon</title>
<style>
body {{ font: 16px/1.55 system-ui, sans-serif }}
body {{ max-width: 52rem; margin: 2rem auto; padding: 0 1rem }}
pre, code {{ font: 14px/1.45 ui-monospace, monospace; background: #f5f5f5 }}
pre {{ padding: .8rem; overflow-x: auto }}
table {{ border-collapse: collapse }} td, th {{ border: 1px solid #ddd; padding: .3rem .6rem }}
img {{ max-width: 100% }}
</style>
<nav><a href="index.html">Pantheon</a> · <a href="design.html">Design</a> ·
<a href="configuration.html">Configuration</a> ·
<a href="compression.html">Compression</a> ·
<a href="search.html">Search</a> ·
<a href="latency.html">Latency tables</a> ·
<a href="results.html">Results</a> ·
<a href="integrations.html">Integrations</a> ·
<a href="cluster.html">Cluster</a> ·
<a href="operations.html">Operations</a> ·
<a href="security.html">Security</a> ·
<a href="coming-from-paddleslim.html">Coming from PaddleSlim</a> ·
<a href="api/index.html">API</a></nav>
{body}
</html>
"""


def check_links(page: Path) -> None:
    """Every relative link of a page must lead to a file."""
    for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
        if not (page.parent / link).exists():
            raise SystemExit(f"{page}: the link to {link} leads nowhere")


def modules() -> list[str]:
    """Every module of ours, its lazily imported names looked up so that they are shown."""
    names = list(PACKAGES)
    for package in PACKAGES:
        path = importlib.import_module(package).__path__
        names += [found.name for found in pkgutil.walk_packages(path, f"{package}.")]
    names = [name for name in names if not name.endswith("__main__")]
    for name in names:
        module = importlib.import_module(name)
        for public in getattr(module, "__all__", ()):
            setattr(module, public, getattr(module, public))
    # pdoc itself finds the modules of packages that have no __all__.
    return [n for n in names if n in PACKAGES or hasattr(_parent(n), "__all__")]


def _parent(name: str) -> ModuleType:
    return importlib.import_module(name.rpartition(".")[0])


def build(out: Path) -> None:
    """Write every page of this folder, the README and the API reference to `out`."""
    out.mkdir(parents=True, exist_ok=True)
    for page in [*sorted(DOCS.glob("*.md")), DOCS.parent / "README.md"]:
        check_links(page)
        text = page.read_text(encoding="utf-8").replace("](docs/", "](").replace("](../", "](")
        text = re.sub(r"\]\(([\w-]+)\.md", r"](\1.html", text)
        body = markdown2.markdown(text, extras=EXTRAS)
        title = text.splitlines()[0].lstrip("# ")
        (out / f"{page.stem}.html").write_text(PAGE.format(title=title, body=body))
    for picture in (*DOCS.glob("*.svg"), *DOCS.glob("*.png")):
        shutil.copy(picture, out)
    pdoc.render.configure(docformat="google")
    pdoc.pdoc(*modules(), output_directory=out / "api")


if __name__ == "__main__":
    build(Path(sys.argv[1]))
