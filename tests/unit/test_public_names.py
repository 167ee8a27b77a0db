"""What `import pantheon` offers, and what it does not drag in."""

from __future__ import annotations

import subprocess
import sys

import pytest

import pantheon


def test_the_public_names_are_sorted_and_all_there() -> None:
    assert pantheon.__all__ == sorted(set(pantheon.__all__))
    for name in pantheon.__all__:
        assert getattr(pantheon, name).__name__ == name
    assert set(pantheon.__all__) <= set(dir(pantheon))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        _ = pantheon.Nothing


@pytest.mark.parametrize(
    "code",
    [
        "import pantheon",
        "import pantheon.cli",
        "import pantheon.codec.parts, pantheon.schema, pantheon.messages, pantheon.store.manifest",
        "import pantheon.transport, pantheon.order, pantheon.ledger",
        "from pantheon.cli import app; app(['--help'], standalone_mode=False)",
        "from pantheon.cli import app; app(['serve', '--help'], standalone_mode=False)",
    ],
)
def test_no_torch_is_imported(code: str) -> None:
    check = f"{code}\nimport sys\nassert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
