"""How requests are cut, and where teachers are looked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pantheon.errors import ConfigError, UnsupportedScheme
from pantheon.ranks import place
from pantheon.schema import FieldSpec, KnowledgeSchema
from pantheon.wire.messages import Limits
from student_client.options import Options, for_teachers
from student_client.sizing import REQUEST_BYTES, is_ragged, request_rows, row_bytes
from student_client.sources import kind_of, open_sources


def test_a_row_weighs_what_its_coded_parts_do() -> None:
    fields = (
        FieldSpec("a", "float32", (10,), "int8"),
        FieldSpec("b", "float32", (100,), "topk:4@1,2"),
    )
    assert row_bytes(KnowledgeSchema(fields)) == (10 + 4) + (4 * 4 + 4 * 4 + 2 * 4)
    assert not is_ragged(KnowledgeSchema(fields))


@given(batch=st.integers(1, 5000), weight=st.integers(1, 1 << 24), most=st.integers(1, 1 << 16))
def test_requests_are_whole_batches_within_the_bounds_of_teachers(
    batch: int, weight: int, most: int
) -> None:
    rows = request_rows(batch, weight, ragged=False, limits=[Limits(max_rows=most)], asked=None)
    assert 1 <= rows <= most
    assert rows * weight <= Limits().max_reply_bytes
    if rows >= batch:
        assert rows % batch == 0
        assert rows // batch <= 32
        assert rows == batch or rows * weight <= REQUEST_BYTES


def test_requests_of_samples_that_differ_in_size_are_single_batches() -> None:
    assert request_rows(8, 1, ragged=True, limits=[Limits()], asked=None) == 8


def test_a_row_that_no_teacher_may_send_is_refused() -> None:
    limits = [Limits(max_reply_bytes=100)]
    with pytest.raises(ConfigError, match="101 bytes"):
        request_rows(8, 101, ragged=False, limits=limits, asked=None)


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ("tcp://h:1", "online"),
        ("grpc://h:1/m", "online"),
        (["tcp://h:1", "tcp://h:2"], "online"),
        ("runs/dump", "offline"),
        ("file:///runs/dump", "offline"),
        ("simplecache::s3://bucket/dump", "offline"),
        (Path("dump"), "offline"),
    ],
)
def test_a_teacher_is_known_by_how_it_is_written(given: object, kind: str) -> None:
    assert kind_of(given) == kind


@pytest.mark.parametrize("address", ["shm://x", "ftp://x"])
def test_a_scheme_that_is_not_built_says_so(address: str) -> None:
    with pytest.raises(UnsupportedScheme, match=address):
        open_sources({"t": address}, None)


@pytest.mark.parametrize(
    ("teachers", "words"),
    [
        ({}, "at least one teacher"),
        ({"t": 7}, "int"),
        ({"t": []}, "at least one address"),
        ({"t": ["tcp://h:1", "tcp://h:1"]}, "more than once"),
        ({"t": "tcp://h"}, "a host and a port"),
    ],
)
def test_teachers_that_cannot_be_are_named(teachers: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        open_sources(teachers, None)


def test_checksums_are_asked_for_between_hosts_only() -> None:
    addresses = ["tcp://127.0.0.1:1", "tcp://10.255.255.1:1", "ipc:///tmp/x"]
    (source,) = open_sources({"t": addresses}, None)
    assert source.integrity == (False, True, False)
    for connection in source.connections:
        connection.close()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"patience": 0.0}, "patience is 0"),
        ({"num_workers": -1}, "num_workers is -1"),
        ({"rank": 2, "world": 2}, "rank 2 of 2"),
        ({"rank": -1, "world": 2}, "rank is -1"),
        ({"seed": "a"}, "seed is 'a'; expected a whole number"),
        ({"request_rows": 7.5}, r"request_rows is 7\.5; expected a whole number from 1"),
        ({"window_bytes": "64MB"}, "window_bytes is '64MB'; expected a number"),
        ({"lease": None}, "lease is None; expected a number"),
    ],
)
def test_numbers_that_cannot_be_are_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Options(**options)


def test_torchrun_says_which_rank_this_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert place(None, None) == (0, 1)
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert place(None, None) == (2, 3)
    assert place(0, 1) == (0, 1)
    with pytest.raises(ConfigError, match="both"):
        place(1, None)


def test_what_is_said_of_an_unknown_teacher_is_refused() -> None:
    assert for_teachers("fields", None, ["a"]) == {}
    with pytest.raises(ConfigError, match="fields names the teacher 'b'; the teachers are a"):
        for_teachers("fields", {"b": 1}, ["a"])
