"""Whether an answer is what was asked for: revision, rows, schema, checksum. No I/O."""

from __future__ import annotations

from pantheon.errors import RevisionMismatch, SchemaError
from pantheon.wire.buffers import digest
from pantheon.wire.messages import Scored
from student_client.known import KnownTeacher
from student_client.replica import Replica


def check_scored(teacher: KnownTeacher, replica: Replica, message: Scored, rows: int) -> None:
    """Raise unless an answer is of the revision, the rows and the schema agreed on.

    Raises:
        RevisionMismatch: the teacher's weights changed since its Welcome.
        SchemaError: another number of rows, or parts the schema does not say.
    """
    agreed = teacher.welcome.revision
    if message.revision != agreed:
        raise RevisionMismatch(
            f"teacher {replica.teacher!r} at {replica.address} answered with revision "
            f"{message.revision!r}, it began with {agreed!r}; its weights changed: begin again, or "
            "serve the ones it began with"
        )
    try:
        if message.rows != rows:
            raise SchemaError(f"{message.rows} rows were answered where {rows} were asked for")
        teacher.check(rows, [(p.dtype, p.shape) for p in message.parts])
    except SchemaError as error:
        raise type(error)(
            f"teacher {replica.teacher!r} at {replica.address} sent what its schema does not say: "
            f"{error}"
        ) from error


def intact(replica: Replica, message: Scored) -> str | None:
    """What is wrong with an answer's checksum, or None: it is right, or was not asked for."""
    if not replica.hello.integrity or (message.digest is None and not replica.strict):
        return None
    if message.digest is None:
        return "no checksum came with the answer"
    found = digest(p.data for p in message.parts)
    if found == message.digest:
        return None
    return f"the checksum of the answer is {found:016x}, it came with {message.digest:016x}"
