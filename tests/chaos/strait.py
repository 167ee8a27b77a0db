"""Two network namespaces with a bad link between them: packets are late, and some are lost.

Each namespace has a TUN device, and ``python -m tests.chaos.strait JSON``, in a process of its own,
carries the packets between them. So nothing but the kernel's namespaces and TUN is needed, where
netem would need a module more, and losses are drawn from a seed.
"""

from __future__ import annotations

import ctypes
import fcntl
import heapq
import json
import os
import random
import select
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from tests.integration.programs import running

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
CLONE_NEWNET = 0x40000000
LARGEST = 65536
SIDES = ("teacher", "student")
ADDRESSES = {"teacher": "10.231.7.1", "student": "10.231.7.2"}


def command(*words: str) -> None:
    """Run a command that must succeed; `OSError` says why it did not."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=10)
    except FileNotFoundError as error:
        raise OSError(f"{words[0]} is not installed") from error
    if done.returncode:
        raise OSError(f"{' '.join(words)}: {done.stderr.strip()}")


@contextmanager
def strait(loss: float, delay: float, seed: int = 0) -> Iterator[dict[str, list[str]]]:
    """Make both namespaces and the link; yields by side the command that runs others in it.

    Args:
        loss: share of the packets that are lost, in each direction.
        delay: seconds that every packet takes, one way.

    Raises:
        OSError: this machine does not allow it; says why.
    """
    names = {side: f"pantheon-{side}-{os.getpid()}" for side in SIDES}
    with ExitStack() as stack:
        for name in names.values():
            command("ip", "netns", "add", name)
            stack.callback(command, "ip", "netns", "del", name)
        if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
            raise OSError("/dev/net/tun cannot be opened")
        order = {"names": list(names.values()), "loss": loss, "delay": delay, "seed": seed}
        stack.enter_context(running("tests.chaos.strait", json.dumps(order)))
        for side, name in names.items():
            command("ip", "-n", name, "address", "add", f"{ADDRESSES[side]}/30", "dev", "tun0")
            command("ip", "-n", name, "link", "set", "tun0", "up")
        yield {side: ["ip", "netns", "exec", name] for side, name in names.items()}


def open_tun(namespace: str) -> int:
    """A new TUN device in a namespace, which this process enters."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(f"/var/run/netns/{namespace}") as file:
        if libc.setns(file.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"setns {namespace}")
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", b"tun0", IFF_TUN | IFF_NO_PI))
    return tun


def carry(tuns: tuple[int, int], loss: float, delay: float, seed: int) -> None:
    """Pass packets between two devices, for ever."""
    source, number = random.Random(seed), 0
    late: list[tuple[float, int, int, bytes]] = []
    while True:
        wait = max(0.0, late[0][0] - time.monotonic()) if late else None
        for tun in select.select(tuns, [], [], wait)[0]:
            packet, to = os.read(tun, LARGEST), tuns[1 - tuns.index(tun)]
            if source.random() >= loss:
                number += 1
                heapq.heappush(late, (time.monotonic() + delay, number, to, packet))
        while late and late[0][0] <= time.monotonic():
            _, _, to, packet = heapq.heappop(late)
            os.write(to, packet)


def main() -> None:
    """Do what the JSON says."""
    order = json.loads(sys.argv[1])
    first, second = (open_tun(name) for name in order["names"])
    print(json.dumps("ready"), flush=True)
    carry((first, second), order["loss"], order["delay"], order["seed"])


if __name__ == "__main__":
    main()
