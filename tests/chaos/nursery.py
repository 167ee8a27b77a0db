"""Makes replicas by forking: ``python -m tests.chaos.nursery``, one line of JSON in for each.

Torch is imported once, before any thread or socket exists, so a replica is up in a tenth of a
second. A replica says with a line of JSON where it listens, or what kept it from listening. All of
them end with the nursery, which ends when its standard input is closed.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import traceback
from typing import Any

import torch

from pantheon.transport import Curve
from teacher_server import serve
from tests.chaos.lessons import teacher

PR_SET_PDEATHSIG = 1


def replica(order: dict[str, Any]) -> None:
    """Serve one teacher until a signal comes."""

    def ready(addresses: list[str]) -> None:
        said = json.dumps({"pid": os.getpid(), "address": addresses[0]})
        os.write(1, f"{said}\n".encode())

    address, keys = order.pop("address"), order.pop("keys", None)
    security = None if keys is None else Curve(keys)
    serve({"": teacher(**order)}, address, insecure=True, security=security, ready=ready)


def fork(order: dict[str, Any]) -> None:
    """Start a replica; only its process gets past the first line."""
    if os.fork():
        return
    code = 0
    try:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        replica(order)
    except BaseException as error:  # noqa: BLE001  # it must not go on as a second nursery
        code = 1
        os.write(1, f"{json.dumps({'error': repr(error)})}\n".encode())
        traceback.print_exc()
    os._exit(code)


def main() -> None:
    """Fork for every line."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # The kernel buries the dead.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    teacher()  # What torch loads late is loaded before the first fork.
    for line in sys.stdin:
        fork(json.loads(line))


if __name__ == "__main__":
    main()
