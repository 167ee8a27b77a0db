"""One replica of a teacher as the fleet sees it."""

from __future__ import annotations

from dataclasses import dataclass, field

from pantheon.delivery.speed import Speed
from pantheon.transport import Address, Connection
from pantheon.wire.messages import Hello, Message, Welcome


@dataclass(slots=True, eq=False)
class Replica:
    """A connection and what is known about its other side.

    Args:
        teacher: the teacher it is a replica of.
        hello: what to introduce ourselves with.
        supervised: whether work given to it can get lost; never so inside this process.
        strict: a reply without the checksum asked for is refused.
        welcome: the answer to our Hello, None while it is not there.
        down: why it is not there.
        error: the error for which it will never be there, or its unknown host may not.
        retry_at: when to say Hello again, on the caller's clock, after it asked us to come later.
        found: the address at which it was found behind a name; None for one that was stated.
        failures: how often in a row it was lost before it had answered anything.
        instance: which run of the server answered last.
        survived: it is the run that was lost before, so that only the way to it had failed.
        answers: requests it was the first to answer.
        losses: how often it was up and went away.
        speed: how fast it has answered since it came.
    """

    teacher: str
    connection: Connection
    hello: Hello
    supervised: bool = True
    strict: bool = False
    welcome: Welcome | None = None
    down: str = "not reached yet"
    error: Exception | None = None
    retry_at: float | None = None
    found: Address | None = None
    failures: int = 0
    instance: str = ""
    survived: bool = False
    answers: int = 0
    losses: int = 0
    speed: Speed = field(default_factory=Speed)

    @property
    def address(self) -> str:
        """Where it is, which is also its name in the ledger."""
        return self.connection.address

    @property
    def up(self) -> bool:
        """Whether it may be asked."""
        return self.welcome is not None

    def come(self, welcome: Welcome) -> None:
        """It answered our Hello."""
        self.welcome = welcome
        self.speed = Speed()
        self.survived = bool(welcome.instance) and welcome.instance == self.instance
        self.instance = welcome.instance

    def send(self, message: Message) -> bool:
        """Hand a message over; False when it is not there."""
        return self.connection.send(message)
