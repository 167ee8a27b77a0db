"""The replicas behind names that stand for several addresses, looked up again and again."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from dataclasses import replace

from pantheon.transport import Address
from pantheon.transport.lookup import Lookup
from student_client.replica import Replica

RESOLVE_S = 2.0
"""Seconds between two questions for the addresses of a name."""

Answer = tuple[frozenset[Address], str]


class Discovery:
    """Asks for the addresses of one teacher's ``dns://`` names, in a thread of its own.

    Args:
        teacher: its name.
        names: ``dns://`` addresses.
        make: begins to reach a replica at a numeric address.

    Attributes:
        found: the addresses of the last answer; None before the first.
        trouble: what could not be resolved, and why; empty when all could.
        due: when to ask next, in the caller's seconds.
    """

    def __init__(
        self, teacher: str, names: Sequence[Address], make: Callable[[Address], Replica]
    ) -> None:
        self.teacher, self.names, self.make = teacher, tuple(names), make
        self.found: frozenset[Address] | None = None
        self.trouble = "not resolved yet"
        self.due = float("-inf")
        self._lookup = Lookup()

    @property
    def fd(self) -> int:
        """Readable when an answer waits."""
        return self._lookup.fd

    def ask(self, now: float) -> None:
        """Begin to ask, if it is time and the last question is answered."""
        if now >= self.due:
            self.due = now + RESOLVE_S
            if not self._lookup.busy:
                self._lookup.ask(lambda: look_up(self.names))

    def answer(self) -> bool:
        """Take an answer in; whether one was there."""
        answer: Answer | None = self._lookup.answer()
        if answer is None:
            return False
        self.found, self.trouble = answer
        return True

    def close(self) -> None:
        """Ask no more."""
        self._lookup.close()


def look_up(names: Sequence[Address]) -> Answer:
    """All numeric addresses of some names, and what could not be resolved. Blocks.

    Example:
        >>> from pantheon.transport import parse_address
        >>> found, trouble = look_up([parse_address("dns://127.0.0.1:5557/bert")])
        >>> [str(address) for address in found], trouble
        (['tcp://127.0.0.1:5557/bert'], '')
    """
    found: set[Address] = set()
    trouble = []
    for name in names:
        try:
            entries = socket.getaddrinfo(name.host, name.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            trouble.append(f"{name} does not resolve: {getattr(error, 'strerror', None) or error}")
            continue
        found |= {replace(name, scheme=name.speaks, host=str(e[4][0])) for e in entries}
    return frozenset(found), "; ".join(trouble)
