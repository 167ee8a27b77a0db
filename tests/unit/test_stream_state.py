"""A saved state fits the run it came from, on any number of ranks, and no other."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pantheon.errors import ResumeMismatch
from pantheon.sampling.position import Position
from pantheon.sampling.stream_state import Origin, Run, ids_fingerprint, restore, save

RUN = Run(global_batch=8, seed=3, shuffle=True, size=100, ids=None, drop_last=False, views=0)


@pytest.mark.parametrize("world", [1, 2, 4])
def test_a_state_goes_through_json_to_any_number_of_ranks(world: int) -> None:
    state = json.loads(json.dumps(save(RUN, 4, 7)))
    assert state["position"] == 56
    assert restore(state, RUN, world) == (4, 7)


def test_another_global_batch_names_the_batch_size_that_keeps_it() -> None:
    with pytest.raises(ResumeMismatch, match="batch_size=4 with 2 ranks"):
        restore(save(RUN, 0, 1), replace(RUN, global_batch=20), world=2)
    with pytest.raises(ResumeMismatch, match="ranks that divides 8"):
        restore(save(RUN, 0, 1), replace(RUN, global_batch=6), world=3)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 4},
        {"shuffle": False},
        {"size": 99},
        {"ids": "0123"},
        {"drop_last": True},
        {"views": 2},
    ],
)
def test_another_sequence_of_ids_is_refused_and_named(change: dict[str, Any]) -> None:
    (name,) = change
    with pytest.raises(ResumeMismatch, match=name):
        restore(save(RUN, 0, 1), replace(RUN, **change), world=1)


@pytest.mark.parametrize(
    "change",
    [{"version": 9}, {"position": 57}, {"epoch": "1"}, {"epoch": -1}, {"position": None}],
)
def test_an_altered_state_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ResumeMismatch):
        restore(save(RUN, 0, 1) | change, RUN, world=1)


def test_what_is_no_state_is_refused() -> None:
    with pytest.raises(ResumeMismatch, match=r"None; expected the dict that state_dict\(\)"):
        restore(None, RUN, world=1)  # type: ignore[arg-type]


def test_the_order_of_chosen_ids_counts() -> None:
    assert ids_fingerprint(None) is None
    assert ids_fingerprint(np.array([1, 2])) == ids_fingerprint(np.array([1, 2], np.int32))
    assert ids_fingerprint(np.array([1, 2])) != ids_fingerprint(np.array([2, 1]))


def test_an_epoch_that_ended_is_followed_by_the_next() -> None:
    at = Position()
    assert at.begin() == (0, 0)
    at.step()
    at.finish()
    assert (at.epoch, at.steps) == (1, 0)
    assert at.begin() == (1, 0)


def test_an_abandoned_epoch_is_where_it_was_left_until_the_next_begins() -> None:
    at = Position()
    at.begin()
    at.step()
    assert (at.epoch, at.steps) == (0, 1)
    assert at.begin() == (1, 0)


def test_a_restored_position_is_begun_in_the_middle_once() -> None:
    at = Position()
    at.restore(5, 3)
    at.jump(5, going=False)
    assert at.begin() == (5, 3)
    assert at.begin() == (6, 0)


def test_another_epoch_than_the_restored_one_begins_at_its_beginning() -> None:
    at = Position()
    at.restore(5, 3)
    at.jump(7, going=False)
    assert at.begin() == (7, 0)


def test_an_epoch_set_meanwhile_does_not_move_the_one_that_is_read() -> None:
    at = Position()
    at.begin()
    at.step()
    at.jump(9, going=True)
    assert (at.epoch, at.steps) == (0, 1)
    at.finish()
    assert at.begin() == (9, 0)


ORIGIN = Origin("d1", {"a": "r1", "b": "r2"})


def test_what_was_learned_from_goes_through_json_with_the_state() -> None:
    state = json.loads(json.dumps(save(RUN, 0, 1, ORIGIN)))
    assert Origin.of(state) == ORIGIN
    assert restore(state, RUN, 1) == (0, 1)


def test_a_state_that_does_not_say_what_it_has_learned_from_still_loads() -> None:
    state = save(RUN, 0, 1)
    del state["dataset"], state["teachers"]
    assert Origin.of(state) == Origin()
    Origin.of(state).check(ORIGIN, {})
    ORIGIN.check(Origin(), {})


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (Origin("d2", ORIGIN.teachers), "fingerprint d1, this loader has one with d2"),
        (Origin("d1", {"b": "r3"}), "revision r2 of teacher 'b', which has r3 now"),
        (Origin(None, {"a": "r2", "b": "r2"}), r"ask for revision=\{'a': 'r2'\}"),
    ],
)
def test_another_dataset_or_revision_is_refused_and_both_are_named(
    found: Origin, says: str
) -> None:
    ORIGIN.check(ORIGIN, {})
    with pytest.raises(ResumeMismatch, match=says):
        ORIGIN.check(found, {"a": "r1", "b": None})


def test_a_revision_that_is_asked_for_is_gone_on_with_and_the_log_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ORIGIN.check(Origin("d1", {"a": "r1", "b": "r3"}), {"a": None, "b": "r3"})
    (record,) = caplog.records
    assert record.message == "going on with revision r3 of teacher 'b' after r2"


@pytest.mark.parametrize("change", [{"dataset": 3}, {"teachers": ["a"]}, {"teachers": {"a": 1}}])
def test_an_altered_origin_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ResumeMismatch, match="it was altered"):
        Origin.of(save(RUN, 0, 1, ORIGIN) | change)
