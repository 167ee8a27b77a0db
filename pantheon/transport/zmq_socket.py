"""What both ends of a ZeroMQ transport share: options, the clients' context, frames in and out."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence

import numpy as np
import zmq

from pantheon.wire.messages import Buffer

HANDSHAKE_S = 3.0
"""Seconds a ZMTP handshake may take."""

HEARTBEAT_S = 2.0
DEAD_S = 30.0
"""Seconds without a sign of life after which a peer is gone; a frame must pass in this time."""

LINGER_S = 0.2
"""Seconds in which a Goodbye may still leave after `close`."""

CURVE_BYTES = 64
"""No less than what CURVE adds to a frame, which libzmq counts with it."""

LOCAL_BUFFER = 512 << 10
"""Bytes of the kernel's send buffer where both ends share a machine: what waits there stays in the
processor's cache. Between machines the kernel chooses, as long ways need more."""

_contexts: dict[int, zmq.Context[zmq.Socket[bytes]]] = {}
_lock = threading.Lock()


def client_context() -> zmq.Context[zmq.Socket[bytes]]:
    """The context that all connections of this process share; a forked child gets its own.

    An inherited context sends into nothing, silently. The parent's is kept referenced in the child,
    where closing it would be wrong too.
    """
    with _lock:
        pid = os.getpid()
        if pid not in _contexts or _contexts[pid].closed:
            _keep_freed_memory()
            _contexts[pid] = zmq.Context()
        return _contexts[pid]


def _keep_freed_memory() -> None:
    """Have the C library use the memory of received messages again, not hand it back each time.

    Otherwise every page of every large message is a fault, which costs as much as receiving it.
    glibc adapts to the largest block, up to 32 MiB, that was freed so far; see M_MMAP_THRESHOLD in
    mallopt(3). Elsewhere this does nothing. The block is never touched, so it takes no memory.
    """
    np.empty(31 << 20, np.uint8)


os.register_at_fork(after_in_child=lambda: globals().update(_lock=threading.Lock()))


def set_options(socket: zmq.Socket[bytes], max_bytes: int) -> None:
    """Options of both ends: nothing lingers, no mark counts messages, silence is noticed.

    Args:
        max_bytes: of a frame. It holds for the frames of a handshake too.
    """
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.SNDHWM, 0)
    socket.setsockopt(zmq.RCVHWM, 0)
    socket.setsockopt(zmq.MAXMSGSIZE, max_bytes + CURVE_BYTES)
    socket.setsockopt(zmq.HANDSHAKE_IVL, int(HANDSHAKE_S * 1000))
    socket.setsockopt(zmq.HEARTBEAT_IVL, int(HEARTBEAT_S * 1000))
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, int(DEAD_S * 1000))
    socket.setsockopt(zmq.HEARTBEAT_TTL, int(DEAD_S * 1000))


def receive_frames(socket: zmq.Socket[bytes]) -> list[zmq.Frame] | None:
    """One message as frames that own their memory, or None when none waits."""
    first = receive_first(socket)
    return None if first is None else [first, *receive_rest(socket, first)]


def receive_first(socket: zmq.Socket[bytes]) -> zmq.Frame | None:
    """The first frame of a message, or None when none waits."""
    try:
        return socket.recv(zmq.NOBLOCK, copy=False)
    except zmq.Again:
        return None


def receive_rest(socket: zmq.Socket[bytes], frame: zmq.Frame) -> Iterator[zmq.Frame]:
    """The frames of the message after one of its frames; the next message comes after the last."""
    while frame.more:
        frame = socket.recv(copy=False)
        yield frame


def send_frames(socket: zmq.Socket[bytes], frames: Sequence[Buffer]) -> bool:
    """Queue one message; False when nobody is there. Frames of 64 KiB or more are not copied."""
    last = len(frames) - 1
    for i, frame in enumerate(frames):
        flags = zmq.NOBLOCK if i == last else zmq.NOBLOCK | zmq.SNDMORE
        try:
            socket.send(frame, flags, copy=False)
        except zmq.Again:
            if 0 < i < last:
                # The peer went between two frames. libzmq now drops what follows up to the end of a
                # message: end it here, or the next message would be dropped instead.
                _finish(socket)
            return False
        except zmq.ZMQError as error:
            if error.errno == zmq.EHOSTUNREACH:
                return False
            raise
    return True


def _finish(socket: zmq.Socket[bytes]) -> None:
    try:
        socket.send(b"", zmq.NOBLOCK)
    except zmq.Again:
        return
