"""A checkpoint is whole or is not there, and holds what was put into it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from pantheon import checkpoint
from pantheon.errors import DiskFullError, StoreError

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
STATES = st.dictionaries(
    st.text() | st.integers(),
    st.recursive(
        SCALARS,
        lambda inner: (
            st.lists(inner)
            | st.tuples(inner)
            | st.dictionaries(st.text() | st.integers(), inner, max_size=3)
        ),
        max_leaves=10,
    ),
)


@given(STATES)
def test_plain_values_come_back_as_they_were(tmp_path_factory: Any, state: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "plain.safetensors"
    checkpoint.save(path, state)
    assert checkpoint.load(path) == state


def test_an_optimizers_state_comes_back(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    path = tmp_path / "deep" / "state.safetensors"
    checkpoint.save(path, {"optimizer": optimizer.state_dict()})
    other = torch.optim.Adam(model.parameters())
    other.load_state_dict(checkpoint.load(path)["optimizer"])
    assert str(other.state_dict()) == str(optimizer.state_dict())


def test_tied_and_strided_tensors_are_saved(tmp_path: Path) -> None:
    tensor = torch.arange(6).reshape(2, 3)
    path = tmp_path / "state.safetensors"
    checkpoint.save(path, {"a": tensor, "b": tensor, "c": tensor.T})
    state = checkpoint.load(path)
    assert torch.equal(state["a"], tensor)
    assert torch.equal(state["b"], tensor)
    assert torch.equal(state["c"], tensor.T)


def test_what_cannot_be_saved_is_named_and_the_old_file_kept(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    checkpoint.save(path, {"step": 1})
    with pytest.raises(StoreError, match=r"state\.model\.f is a function"):
        checkpoint.save(path, {"model": {"f": lambda: None}})
    with pytest.raises(StoreError, match="a key of type float"):
        checkpoint.save(path, {1.5: 0})
    assert checkpoint.load(path) == {"step": 1}


def test_a_full_disk_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.safetensors"
    checkpoint.save(path, {"step": 1})

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(DiskFullError, match="the previous checkpoint is kept"):
        checkpoint.save(path, {"step": 2})
    assert checkpoint.load(path) == {"step": 1}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("metadata", "says"),
    [
        (None, "without 'pantheon.state' in its metadata"),
        ({"pantheon.state": "{"}, "contradicts itself"),
        ({"pantheon.state": json.dumps({"map": [["a", {"tensor": "b"}]]})}, "contradicts itself"),
        ({"pantheon.state": json.dumps({"pickle": "x"})}, "contradicts itself"),
        ({"pantheon.state": "[]"}, "expected a mapping"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, metadata: Any, says: str) -> None:
    path = tmp_path / "state.safetensors"
    save_file({"x": torch.ones(1)}, path, metadata)
    with pytest.raises(StoreError, match=says):
        checkpoint.load(path)


def test_absent_and_foreign_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot read the weights"):
        checkpoint.load_weights(tmp_path / "absent")
    (tmp_path / "pickle.pt").write_bytes(b"\x80\x04")
    with pytest.raises(StoreError, match="expected a safetensors file"):
        checkpoint.load_weights(tmp_path / "pickle.pt")
