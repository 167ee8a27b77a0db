"""A server may open as many descriptors as the system lets it, and says so where that is few."""

from __future__ import annotations

import resource
from collections.abc import Iterator

import pytest

from teacher_server.descriptors import ENOUGH, MOST, raise_limit

LIMITS = resource.getrlimit(resource.RLIMIT_NOFILE)


@pytest.fixture(autouse=True)
def usual() -> Iterator[None]:
    """The usual soft limit."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, LIMITS[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, LIMITS)


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "grpc://127.0.0.1:1", "ipc:///x"])
def test_a_server_at_a_socket_may_open_what_the_hard_limit_allows(address: str) -> None:
    raise_limit(["inproc://x", address])
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert soft == (MOST if hard == resource.RLIM_INFINITY else min(hard, MOST))
    assert hard == LIMITS[1]


def test_a_server_in_the_process_changes_no_limit() -> None:
    raise_limit(["inproc://x"])
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 1024


def test_a_limit_that_stays_low_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    raise_limit(["tcp://127.0.0.1:1"])
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (512, ENOUGH - 1))
    monkeypatch.setattr(resource, "setrlimit", lambda kind, limits: None)
    raise_limit(["tcp://127.0.0.1:1"])
    assert f"only {ENOUGH - 1} files" in caplog.text


def test_a_limit_that_cannot_be_raised_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(kind: int, limits: tuple[int, int]) -> None:
        raise ValueError("not allowed")

    with monkeypatch.context() as patch:
        patch.setattr(resource, "setrlimit", refuse)
        raise_limit(["tcp://127.0.0.1:1"])
    assert "only 1024 files" in caplog.text
