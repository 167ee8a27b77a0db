"""All parts of a training go on together from the newest whole file, or not at all."""

from __future__ import annotations

import json
import logging
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from pantheon import Checkpoint
from pantheon.errors import ConfigError, DiskFullError, ResumeMismatch, StoreError
from pantheon.ranks import Ranks
from pantheon.saving import checkpoint, copies
from pantheon.saving.nested import checksum, pack


class Noisy:
    """A plain loop whose every part has a state, and which draws from every generator."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        self.model = nn.Sequential(
            nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 1)
        )
        self.optimizer = torch.optim.AdamW(self.model.parameters(), 0.01)
        self.scheduler = torch.optim.lr_scheduler.MultiStepLR(self.optimizer, [2, 4])
        self.ema = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
        self.scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=2)

    def learn(self) -> None:
        rows = torch.randn(5, 3) + random.gauss(0, 1) + np.random.standard_normal()
        loss = self.model(rows).square().mean()
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.scheduler.step()
        self.ema.update_parameters(self.model)

    def checkpoint(self, path: Path, **options: Any) -> Checkpoint:
        return Checkpoint(path, **options, **vars(self))

    def digest(self) -> str:
        states = [part.state_dict() for part in vars(self).values()]
        tensors: dict[str, torch.Tensor] = {}
        drawn = [torch.rand(1), random.random(), np.random.rand()]
        return checksum(json.dumps(pack([states, drawn], "state", tensors)), tensors)


@pytest.mark.parametrize("at", [1, 2, 3, 5])
def test_a_loop_goes_on_with_the_same_numbers_after_any_step(tmp_path: Path, at: int) -> None:
    whole = Noisy()
    for _ in range(6):
        whole.learn()
    expected = whole.digest()
    first = Noisy()
    saved = first.checkpoint(tmp_path / "run", every=1)
    assert not saved.resume()
    for _ in range(at):
        first.learn()
        saved.step()
    second = Noisy()
    again = second.checkpoint(tmp_path / "run", every=1)
    assert again.resume()
    assert (again.steps, again.random_restored) == (at, True)
    for _ in range(at, 6):
        second.learn()
        again.step()
    assert second.digest() == expected


def saved_steps(path: Path) -> list[int]:
    return [checkpoint.load(copies.older(path, a))["steps"] for a in copies.ages(path)]


def test_a_file_is_written_every_so_many_steps(tmp_path: Path) -> None:
    path = tmp_path / "run"
    saved = Checkpoint(path, every=3, keep=2, model=nn.Linear(1, 1))
    found = []
    for _ in range(10):
        saved.step()
        found.append(saved_steps(path))
    assert found == [[], [], [3], [3], [3], [6, 3], [6, 3], [6, 3], [9, 6], [9, 6]]


def filled(path: Path, steps: int = 3, **options: Any) -> Checkpoint:
    """A run that has saved after every step."""
    saved = Checkpoint(path, every=1, model=nn.Linear(2, 1), **options)
    for _ in range(steps):
        saved.step()
    return saved


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


@pytest.mark.parametrize("harm", [damage, cut, Path.unlink])
def test_a_damaged_file_is_passed_over_with_a_warning_that_names_both(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, harm: Any
) -> None:
    path = tmp_path / "run"
    filled(path)
    harm(path)
    with caplog.at_level(logging.WARNING):
        saved = Checkpoint(path, every=1, model=nn.Linear(2, 1))
        assert saved.resume()
    assert saved.steps == 2
    (record,) = caplog.records
    assert f"{path}" in record.message.replace(f"{path}.1", "")
    assert f"going on from {path}.1, which was saved before it" in record.message
    # What was damaged does not take the place of the whole one.
    saved.step()
    assert saved_steps(path) == [3, 2]
    saved.step()
    assert saved_steps(path) == [4, 3]


def test_without_a_whole_file_nothing_is_resumed(tmp_path: Path) -> None:
    path = tmp_path / "run"
    filled(path)
    for age in (0, 1):
        cut(copies.older(path, age))
    with pytest.raises(StoreError, match=r"cannot read the checkpoint .*run: "):
        Checkpoint(path, model=nn.Linear(2, 1)).resume()


def test_fewer_files_may_be_kept_than_before(tmp_path: Path) -> None:
    path = tmp_path / "run"
    filled(path, steps=5, keep=4)
    assert saved_steps(path) == [5, 4, 3, 2]
    saved = Checkpoint(path, every=1, keep=1, model=nn.Linear(2, 1))
    assert saved.resume()
    saved.step()
    assert saved_steps(path) == [6]


def test_another_runs_checkpoint_is_not_written_over(tmp_path: Path) -> None:
    path = tmp_path / "run"
    filled(path)
    saved = Checkpoint(path, model=nn.Linear(2, 1))
    with pytest.raises(StoreError, match=r"has not begun from it; call resume\(\) before"):
        saved.save()
    assert saved_steps(path) == [3, 2]
    saved.discard()
    assert list(tmp_path.iterdir()) == []
    saved.save()
    assert saved_steps(path) == [0]


class Two(Ranks):
    """The first of two ranks, whose other one says the same, or something else."""

    def gather(self, values: torch.Tensor) -> torch.Tensor:
        return torch.stack([values, values + self.world - 2])


def test_ranks_that_see_different_files_are_told(tmp_path: Path) -> None:
    path = tmp_path / "run"
    filled(path)
    with pytest.raises(ResumeMismatch, match="a file system that all of them share"):
        Checkpoint(path, ranks=Two(0, 3), model=nn.Linear(2, 1)).resume()


def test_only_the_first_of_another_number_of_ranks_takes_up_random_states(tmp_path: Path) -> None:
    path = tmp_path / "run"
    torch.manual_seed(5)
    filled(path)
    expected = torch.rand(1)
    torch.manual_seed(6)
    for rank, restored in ((1, False), (0, True)):
        saved = Checkpoint(path, ranks=Two(rank, 2), model=nn.Linear(2, 1))
        before = torch.get_rng_state()
        assert saved.resume()
        assert saved.random_restored == restored
        assert torch.equal(before, torch.get_rng_state()) != restored
    assert torch.rand(1) == expected


def test_a_rank_that_is_not_the_first_writes_nothing(tmp_path: Path) -> None:
    filled(tmp_path / "run", ranks=Two(1, 2))
    assert list(tmp_path.iterdir()) == []


def test_two_runs_that_write_one_file_are_told(tmp_path: Path) -> None:
    path = tmp_path / "run"
    one = filled(path)
    two = Checkpoint(path, every=1, model=nn.Linear(2, 1))
    assert two.resume()
    one.step()
    with pytest.raises(StoreError, match="two runs cannot share a checkpoint"):
        two.step()
    one.step()
    assert saved_steps(path) == [5, 4]


def test_a_reader_does_not_disturb_the_run_that_writes(tmp_path: Path) -> None:
    path = tmp_path / "run"
    filled(path)
    partial = tmp_path / ".run.12345678.partial"
    partial.touch()
    reader = Checkpoint(path, model=nn.Linear(2, 1))
    assert reader.resume()
    assert partial.exists()
    reader.save()  # From now on it is the one that writes.
    assert not partial.exists()


def test_wrapped_models_are_saved_without_their_wrappers(tmp_path: Path) -> None:
    path, model = tmp_path / "run", nn.Linear(2, 1)
    wrapped = torch.compile(nn.DataParallel(model), backend="eager")
    Checkpoint(path, model=wrapped).save()
    other = nn.Linear(2, 1)
    assert Checkpoint(path, model=other).resume()
    assert torch.equal(other.weight, model.weight)


def test_tied_weights_stay_tied(tmp_path: Path) -> None:
    def tied() -> nn.Sequential:
        model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        model[1].weight = model[0].weight
        return model

    path, model, other = tmp_path / "run", tied(), tied()
    Checkpoint(path, model=model).save()
    assert Checkpoint(path, model=other).resume()
    assert torch.equal(other[0].weight, model[0].weight)
    assert other[0].weight is other[1].weight


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({}, "holds model, this run has ;"),
        ({"model": nn.Linear(2, 1), "ema": nn.Linear(2, 1)}, "this run has ema, model;"),
        ({"model": nn.Linear(3, 1)}, "does not fit this run"),
        ({"model": nn.LSTM(2, 1)}, "does not fit this run"),
    ],
)
def test_a_checkpoint_of_other_parts_is_refused(
    tmp_path: Path, parts: dict[str, Any], says: str
) -> None:
    path = tmp_path / "run"
    filled(path)
    with pytest.raises(ResumeMismatch, match=says):
        Checkpoint(path, **parts).resume()


def test_a_file_that_was_not_written_by_a_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run"
    checkpoint.save(path, {"epoch": 3})
    with pytest.raises(ResumeMismatch, match="does not fit this run: 'parts'"):
        Checkpoint(path, model=nn.Linear(2, 1)).resume()


def test_a_full_disk_leaves_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run"
    saved = filled(path)
    with monkeypatch.context() as full:

        def refuse(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        full.setattr(os, "fsync", refuse)
        with pytest.raises(DiskFullError):
            saved.step()
    assert saved_steps(path) == [3, 2]
    saved.step()
    assert saved_steps(path) == [5, 3]


def test_what_has_no_state_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="data is a list, which has no load_state_dict"):
        Checkpoint(tmp_path / "run", data=[1])
    with pytest.raises(ConfigError, match="keep is 0"):
        Checkpoint(tmp_path / "run", keep=0)
    with pytest.raises(ConfigError, match="every is 0"):
        Checkpoint(tmp_path / "run", every=0)


def test_a_replaced_numpy_generator_is_refused(tmp_path: Path) -> None:
    before = np.random.get_bit_generator()
    np.random.set_bit_generator(np.random.PCG64(1))
    try:
        with pytest.raises(StoreError, match="generator is PCG64; a checkpoint holds"):
            Checkpoint(tmp_path / "run", model=nn.Linear(1, 1)).save()
    finally:
        np.random.set_bit_generator(before)


def test_a_url_is_refused_at_once_and_no_folder_is_made_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="'s3://bucket/run' is a URL; expected a path of a local"):
        Checkpoint("s3://bucket/run", model=nn.Linear(1, 1))
    with pytest.raises(ConfigError, match="'memory://run' is a URL"):
        checkpoint.save("memory://run", {"step": 1})
    assert list(tmp_path.iterdir()) == []


def test_runs_whose_names_look_like_copies_of_one_another_stay_apart(tmp_path: Path) -> None:
    filled(tmp_path / "fold.3", steps=2)
    one = Checkpoint(tmp_path / "fold", every=1, model=nn.Linear(2, 1))
    assert not one.resume()
    for _ in range(3):
        one.step()
    one.discard()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["fold.3", "fold.3.1"]
    assert saved_steps(tmp_path / "fold.3") == [2, 1]


def test_another_runs_checkpoint_in_the_place_of_a_copy_is_not_written_over(tmp_path: Path) -> None:
    filled(tmp_path / "fold.1", steps=2)
    one = Checkpoint(tmp_path / "fold", every=1, model=nn.Linear(2, 1))
    with pytest.raises(StoreError, match=r"fold\.1, where an older file of .*fold belongs, is ano"):
        one.step()
    assert saved_steps(tmp_path / "fold.1") == [2, 1]
    assert not (tmp_path / "fold").exists()


def test_copies_that_do_not_say_whose_they_are_are_the_runs_own(tmp_path: Path) -> None:
    path = tmp_path / "run"
    filled(path)
    for age in (0, 1):
        file = copies.older(path, age)
        with safe_open(file, "pt") as opened:
            metadata = opened.metadata()
        del metadata[checkpoint.NAME]
        save_file(load_file(file), file, metadata)
    path.unlink()
    saved = Checkpoint(path, every=1, model=nn.Linear(2, 1))
    assert saved.resume()
    assert saved.steps == 2


class Versioned(nn.Module):
    """A module whose older format had half the values."""

    _version = 2

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(2))

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, local_metadata: Any, *rest: Any
    ) -> None:
        if local_metadata.get("version", 1) < 2:
            state_dict[f"{prefix}w"] = state_dict[f"{prefix}w"] * 2
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)


def test_a_module_that_reads_older_formats_takes_its_own_state_for_the_newest(
    tmp_path: Path,
) -> None:
    model, other = nn.Sequential(Versioned()), nn.Sequential(Versioned())
    Checkpoint(tmp_path / "run", model=model).save()
    assert Checkpoint(tmp_path / "run", model=other).resume()
    assert other[0].w.tolist() == [1, 1]


def test_weights_of_another_dtype_are_refused(tmp_path: Path) -> None:
    filled(tmp_path / "run")
    model = nn.Linear(2, 1).bfloat16()
    with pytest.raises(ResumeMismatch, match=r"weight in .* of torch.float32, .* torch.bfloat16"):
        Checkpoint(tmp_path / "run", model=model).resume()


def test_an_enabled_scaler_is_not_resumed_into_a_disabled_one(tmp_path: Path) -> None:
    path = tmp_path / "run"
    Checkpoint(path, scaler=torch.amp.GradScaler("cpu")).save()
    assert Checkpoint(path, scaler=torch.amp.GradScaler("cpu")).resume()
    with pytest.raises(ResumeMismatch, match="was enabled, this run's is not"):
        Checkpoint(path, scaler=torch.amp.GradScaler("cpu", enabled=False)).resume()
