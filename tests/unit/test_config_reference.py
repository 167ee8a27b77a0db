"""References to the user's code are found, or the message says what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from pantheon.errors import ConfigError
from pantheon.reference import call, resolve


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))


def test_a_module_beside_the_configuration_is_found(tmp_path: Path) -> None:
    (tmp_path / "beside_a.py").write_text("def net(width=1):\n    return width\n")
    assert call("beside_a:net", {"width": 3}) == 3


def test_an_absent_module_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^t\.yaml:1: model: there is no module 'nowhere_at'"):
        resolve("nowhere_at.all:net", "t.yaml:1: model")


def test_an_import_that_the_users_module_lacks_is_told_apart(tmp_path: Path) -> None:
    (tmp_path / "beside_b.py").write_text("import absent_dependency\n")
    with pytest.raises(ConfigError, match=r"beside_b needs the module 'absent_dependency'"):
        resolve("beside_b:net")


def test_a_module_that_raises_is_named_with_its_error(tmp_path: Path) -> None:
    (tmp_path / "beside_c.py").write_text("raise OSError('no data')\n")
    with pytest.raises(ConfigError, match=r"importing beside_c failed with OSError: no data"):
        resolve("beside_c:net")


def test_a_misspelt_function_is_answered_with_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "beside_d.py").write_text("def network(): pass\nvalue = 3\n")
    with pytest.raises(ConfigError, match=r"has no 'netwrok'; did you mean 'network'\?"):
        resolve("beside_d:netwrok")
    with pytest.raises(ConfigError, match=r"is a int; expected something to call"):
        resolve("beside_d:value")


def test_arguments_that_do_not_fit_are_named(tmp_path: Path) -> None:
    (tmp_path / "beside_e.py").write_text("def net(width): return width\n")
    with pytest.raises(ConfigError, match=r"beside_e:net\(width\) cannot be called with .*'widht'"):
        call("beside_e:net", {"widht": 3})
