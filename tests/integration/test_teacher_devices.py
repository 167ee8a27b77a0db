"""Several devices: a worker process each, whose death loses nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch

from pantheon.cli.poll import STALLED, Poll
from pantheon.dataset import Ids
from pantheon.errors import ConfigError, ModelError
from pantheon.probes import Health
from pantheon.wire.messages import Refused, Scored
from teacher_server import Teacher
from tests.integration.asking import Asking
from tests.integration.models import SIZE, Deadly, Perishable, Slow, Vectors, net
from tests.integration.programs import ROOT


def until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    """Wait for something that other processes do."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def workers() -> list[psutil.Process]:
    """The worker processes of this process."""
    children = psutil.Process().children()
    return [c for c in children if "spawn_main" in " ".join(c.cmdline())]


def everything(student: Asking, step: int = 7) -> torch.Tensor:
    """All samples' logits, asked for in requests of some rows, all at once."""
    starts = range(0, SIZE, step)
    for start in starts:
        student.ask(start, range(start, min(start + step, SIZE)))
    found = {}
    while len(found) < len(starts):
        scored = student.wait(Scored)
        found[scored.request] = student.decoded(scored)["logits"].clone()
    return torch.cat([found[start] for start in starts])


def teacher(devices: int) -> Teacher:
    """A teacher in deterministic mode."""
    return Teacher(
        net(), Vectors(), {"logits": "float32"}, devices=devices, deterministic=True, fixed_rows=16
    )


def test_two_devices_give_the_bits_of_one_also_when_a_worker_is_killed() -> None:
    with teacher(1).start("ipc:///tmp/pantheon-one.sock") as one, Asking(one.addresses[0]) as s:
        revision, alone = s.welcome.revision, everything(s)
    with teacher(2).start("tcp://127.0.0.1:0") as two, Asking(two.addresses[0]) as s:
        assert s.welcome.revision == revision
        assert torch.equal(everything(s, 11), alone)
        victim = workers()[0]
        for start in range(0, SIZE, 5):
            s.ask(start, range(start, start + 5))
        victim.kill()
        found = {}
        while len(found) < SIZE // 5:
            scored = s.wait(Scored)
            found[scored.request] = s.decoded(scored)["logits"].clone()
        assert torch.equal(torch.cat([found[k] for k in sorted(found)]), alone)
        until(lambda: two.stats().restarts == 1 and len(workers()) == 2)
        assert torch.equal(everything(s), alone)
    assert not workers()


def test_a_request_that_kills_workers_is_refused_and_harms_no_other(tmp_path: Path) -> None:
    poison = Teacher(Deadly(13), Ids(100), {"x": "float32"}, devices=2, batch_rows=8)
    with poison.start("tcp://127.0.0.1:0") as server, Asking(server.addresses[0]) as student:
        for request in range(10):
            student.ask(request, range(10 * request, 10 * request + 10))
        answers = [student.hear() for _ in range(10)]
        refused = [a for a in answers if isinstance(a, Refused)]
        assert [(r.request, r.code) for r in refused] == [(1, "error")]
        assert "10, 11, 12, 13" in refused[0].message
        assert {a.request for a in answers if isinstance(a, Scored)} == {0, *range(2, 10)}


def test_a_student_can_ask_for_some_fields_of_a_server_of_many_devices() -> None:
    both = Teacher(
        net(), Vectors(), {"logits": "float32", "mid": "float16"}, features={"mid": "1"}, devices=2
    )
    with (
        both.start("tcp://127.0.0.1:0") as server,
        Asking(server.addresses[0], {"fields": ("mid",), "integrity": True}) as some,
        Asking(server.addresses[0]) as all_,
    ):
        assert set(some.answer([1, 2])) == {"mid"}
        some.ask(2, [3])
        assert some.wait(Scored).digest is not None
        assert set(all_.answer([1, 2])) == {"logits", "mid"}


def test_workers_that_cannot_be_started_again_keep_nobody_waiting(tmp_path: Path) -> None:
    spoilt = tmp_path / "spoilt"
    model = Teacher(Perishable(str(spoilt)), Vectors(), {"x": "raw"}, devices=2)
    with model.start("tcp://127.0.0.1:0") as server, Asking(server.addresses[0]) as student:
        assert len(student.answer([1])["x"]) == 1
        assert server.health().ready
        spoilt.touch()
        for worker in workers():
            worker.kill()
        until(lambda: server.stats().restarts >= 2)
        assert student.refusal([2]).code == "busy"
        assert server.health() == Health(True, False, {"state": f"no worker for {model.name}"})
        with Poll(server.addresses) as poll:
            (found,) = poll.round(30.0)
        assert (found.state, found.well) == (STALLED, False)


def broken(x: torch.Tensor) -> torch.Tensor:
    raise RuntimeError("no such kernel")


def test_what_a_worker_cannot_do_is_raised_where_the_server_was_started() -> None:
    with pytest.raises(ModelError, match="no such kernel"):
        Teacher(broken, Vectors(), {"x": "raw"}, revision="1", devices=2).start("inproc://no")
    assert not workers()


def test_a_model_that_cannot_be_sent_to_a_process_says_so() -> None:
    local = Teacher(lambda x: x, Vectors(), {"x": "raw"}, revision="1", devices=2)
    with pytest.raises(ConfigError, match="define both in a module"):
        local.start("inproc://no")


ORPHANS = """
from tests.integration.models import Slow, Vectors
from teacher_server import Teacher
if __name__ == "__main__":
    Teacher(Slow(0.01), Vectors(), {"x": "raw"}, devices=2).serve(
        "tcp://127.0.0.1:0", ready=lambda a: print("ready", flush=True))
"""


@pytest.mark.parametrize("signal_", [signal.SIGKILL, signal.SIGTERM])
def test_no_worker_survives_its_server(tmp_path: Path, signal_: signal.Signals) -> None:
    program = tmp_path / "serve.py"
    program.write_text(ORPHANS)
    command = [sys.executable, str(program)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        family = psutil.Process(process.pid).children(recursive=True)
        assert len(family) >= 2
        process.send_signal(signal_)
        process.wait(5)
    _, alive = psutil.wait_procs(family, timeout=5)
    assert not alive


def test_work_goes_where_the_least_of_it_waits() -> None:
    slow = Teacher(Slow(0.2), Vectors(), {"x": "raw"}, devices=2, batch_rows=10)
    with slow.start("tcp://127.0.0.1:0") as server, Asking(server.addresses[0]) as student:
        start = time.monotonic()
        for request in range(4):
            student.ask(request, range(10))
        for _ in range(4):
            student.wait(Scored)
        assert time.monotonic() - start < 0.75, "two workers need 0.4 s, one 0.8 s"
