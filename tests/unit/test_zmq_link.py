"""What monitor events mean, event by event, without a socket."""

from __future__ import annotations

import errno

import pytest
import zmq

from pantheon.errors import ProtocolError, SecurityError
from pantheon.transport import Connected, Lost
from pantheon.transport.zmq_link import RETRY_S, SUSPECT_S, Link
from pantheon.transport.zmq_socket import HANDSHAKE_S

REFUSED = (zmq.EVENT_CONNECT_DELAYED, zmq.EVENT_CONNECT_RETRIED)
UP = (zmq.EVENT_CONNECT_DELAYED, zmq.EVENT_CONNECTED, zmq.EVENT_HANDSHAKE_SUCCEEDED)


def after(*events: int, value: int = 0) -> tuple[Link, list[Connected | Lost]]:
    link, heard = Link("teacher:1"), []
    for event in events:
        if (found := link.feed(event, value, 0.0)) is not None:
            heard.append(found)
    return link, heard


def test_refusals_are_told_once() -> None:
    link, heard = after(*REFUSED * 5)
    assert [type(event) for event in heard] == [Lost]
    assert isinstance(heard[0], Lost)
    assert "refused by teacher:1" in heard[0].reason
    assert not link.up


def test_only_a_finished_handshake_is_a_connection() -> None:
    assert after(*UP[:2])[1] == []
    link, heard = after(*UP)
    assert heard == [Connected()]
    assert link.up


def test_each_period_without_a_connection_is_told_once() -> None:
    down = (zmq.EVENT_DISCONNECTED, zmq.EVENT_CONNECT_RETRIED, *REFUSED)
    _, heard = after(*REFUSED, *UP, *down, *UP, *down)
    assert [type(event) for event in heard] == [Lost, Connected, Lost, Connected, Lost]


@pytest.mark.parametrize(
    "event", [zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL, zmq.EVENT_HANDSHAKE_FAILED_AUTH]
)
def test_a_handshake_refused_for_good_is_fatal(event: int) -> None:
    _, heard = after(*REFUSED, *UP[:2], event)
    assert isinstance(heard[-1], Lost)
    assert isinstance(heard[-1].error, ProtocolError | SecurityError)


@pytest.mark.parametrize("value", [errno.EAGAIN, errno.ECONNRESET, errno.EPIPE])
def test_a_handshake_cut_short_raises_suspicion_but_is_not_fatal(value: int) -> None:
    link, heard = after(*UP[:2], zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL, value=value)
    assert link.suspect
    assert [isinstance(event, Lost) and event.fatal for event in heard] == [False]


def test_a_disconnection_without_a_handshake_raises_suspicion() -> None:
    assert after(*UP[:2], zmq.EVENT_DISCONNECTED)[0].suspect
    assert not after(*UP, zmq.EVENT_DISCONNECTED)[0].suspect


def test_a_long_handshake_is_asked_about_once_and_given_up_later() -> None:
    link, _ = after(*UP[:2])
    assert not link.stuck(SUSPECT_S / 2)
    assert not link.suspect
    assert not link.stuck(SUSPECT_S * 1.1)
    assert link.suspect
    link.suspect = False
    assert not link.stuck(SUSPECT_S * 1.2)
    assert not link.suspect
    assert link.stuck(2 * HANDSHAKE_S + 0.1)
    assert not link.stuck(2 * HANDSHAKE_S + 0.2)


def test_a_loss_that_libzmq_does_not_follow_up_is_noticed() -> None:
    link, _ = after(*UP, zmq.EVENT_DISCONNECTED)
    assert not link.stuck(RETRY_S / 2)
    assert link.stuck(RETRY_S * 1.1)
    link, _ = after(*UP, zmq.EVENT_DISCONNECTED, zmq.EVENT_CONNECT_RETRIED)
    assert not link.stuck(RETRY_S * 10)
