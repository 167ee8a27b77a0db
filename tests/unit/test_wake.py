"""Threads wake a poller, and no signal is lost."""

from __future__ import annotations

import os
import select
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest

from pantheon.transport.inbox import Inbox
from pantheon.transport.lookup import Lookup
from pantheon.transport.wake import Wake


def readable(fd: int, seconds: float = 0.0) -> bool:
    return bool(select.select([fd], [], [], seconds)[0])


def test_set_makes_readable_until_cleared() -> None:
    wake = Wake()
    assert not readable(wake.fd)
    for _ in range(100_000):
        wake.set()
    assert readable(wake.fd)
    wake.clear()
    assert not readable(wake.fd)
    wake.close()


def test_set_after_close_writes_into_no_other_file() -> None:
    wake, other = Wake(), None
    wake.close()
    wake.close()
    other = Wake()
    wake.set()
    wake.clear()
    assert not readable(other.fd)
    other.close()


def test_everything_put_by_threads_is_got_by_a_poller() -> None:
    inbox, threads, each = Inbox(), 4, 2000
    writers = [
        threading.Thread(target=lambda: [inbox.put(1) for _ in range(each)]) for _ in range(threads)
    ]
    for writer in writers:
        writer.start()
    found = 0
    while found < threads * each and readable(inbox.fd, 10):
        while inbox.get() is not None:
            found += 1
    for writer in writers:
        writer.join()
    assert found == threads * each
    assert not readable(inbox.fd)
    inbox.put(1)
    assert readable(inbox.fd)
    inbox.close()
    inbox.put(1)


def test_an_answer_after_close_is_dropped() -> None:
    lookup, gate = Lookup(), threading.Event()
    lookup.ask(lambda: gate.wait(5))
    lookup.close()
    gate.set()


@pytest.mark.timeout(10)
def test_a_signal_handler_may_set_what_it_interrupts(monkeypatch: pytest.MonkeyPatch) -> None:
    wake = Wake()
    before = signal.signal(signal.SIGUSR1, lambda *_: wake.set())

    def interrupted(call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            signal.raise_signal(signal.SIGUSR1)
            done = call(*args)
            signal.raise_signal(signal.SIGUSR1)
            return done

        return run

    try:
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", interrupted(os.write))
            patch.setattr(os, "read", interrupted(os.read))
            wake.set()
            wake.clear()
        assert not readable(wake.fd)
        wake.set()
        assert readable(wake.fd), "nothing that comes later is missed"
    finally:
        signal.signal(signal.SIGUSR1, before)
        wake.close()
