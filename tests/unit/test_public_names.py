"""What `import pantheon` offers, and what it does not drag in."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import pytest

import pantheon
import pantheon.compress

PACKAGES = pytest.mark.parametrize("package", [pantheon, pantheon.compress])


@PACKAGES
def test_the_public_names_are_sorted_and_all_there(package: ModuleType) -> None:
    assert package.__all__ == sorted(set(package.__all__))
    for name in package.__all__:
        assert getattr(package, name).__name__ == name
    assert set(package.__all__) <= set(dir(package))


@PACKAGES
def test_an_unknown_name_is_an_attribute_error(package: ModuleType) -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        _ = package.Nothing


@pytest.mark.parametrize(
    "code",
    [
        "import pantheon",
        "import pantheon.cli",
        "import pantheon.codec.parts, pantheon.schema, pantheon.store.manifest",
        "import pantheon.wire.messages, pantheon.config",
        "import pantheon.compress, pantheon.compress.config, pantheon.compress.report_page",
        "from pantheon.cli import app; app(['compress', '--help'], standalone_mode=False)",
        "import pantheon.transport, pantheon.sampling.order, pantheon.delivery.ledger",
        "from pantheon.cli import app; app(['--help'], standalone_mode=False)",
        "from pantheon.cli import app; app(['serve', '--help'], standalone_mode=False)",
    ],
)
def test_no_torch_is_imported(code: str) -> None:
    check = f"{code}\nimport sys\nassert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
