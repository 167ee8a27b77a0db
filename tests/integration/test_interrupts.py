"""Ctrl-C anywhere: out in two seconds, no orphan process, no half-written shard taken for whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from safetensors import safe_open

from tests.integration.programs import ROOT

PROMPT = 2.0

SLOW = """
import sys, time
import torch
from pantheon.dataset import Ids
from student_client import KnowledgeLoader, TeacherClient
from teacher_server import Teacher

def slow(ids):
    time.sleep(0.05)
    return torch.zeros(len(ids), 4)

calls = 0

def stalling(ids):
    global calls
    calls += 1
    if calls > 20:
        print("stalls", flush=True)
        time.sleep(600)
    return torch.zeros(len(ids), 4)

def teacher(**options):
    return Teacher(slow, Ids(100_000), schema={"logits": "float32"}, revision="1", **options)

if __name__ == "__main__":
    what, *rest = sys.argv[1:]
    print("ready", flush=True)
    if what == "serve":
        teacher(devices=int(rest[0])).serve(*rest[1:])
    elif what == "stall":
        stalls = Teacher(stalling, Ids(100_000), schema={"logits": "float32"}, revision="1")
        stalls.serve(rest[0], ready=lambda found: print(found[0], flush=True))
    elif what == "dump":
        teacher(batch_rows=64).dump(rest[0], shard_rows=256)
    elif what == "wait":
        for batch in KnowledgeLoader(batch_size=8, teachers={"t": rest[0]}, patience=600):
            pass
    elif what == "read":
        for batch in KnowledgeLoader(batch_size=8, teachers={"t": rest[0]}):
            pass
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A module of a user's own, in a folder of its own."""
    path = tmp_path / "slow.py"
    path.write_text(SLOW)
    return path


def interrupt(program: Path, *arguments: str, after: float = 1.5) -> int:
    """Start the program, press Ctrl-C once it works, and answer its exit status."""
    command = [sys.executable, str(program), *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(after)
        assert process.poll() is None, process.communicate()[1]
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        start = time.monotonic()
        process.communicate(timeout=30)
        assert time.monotonic() - start < PROMPT
        _, alive = psutil.wait_procs(family, timeout=PROMPT)
        # One that ended and was not waited for yet by the machine's first process is no orphan.
        assert not [p for p in alive if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
        return process.returncode


@pytest.mark.parametrize("devices", ["1", "2"])
def test_a_serving_teacher_stops_at_once(program: Path, devices: str) -> None:
    interrupt(program, "serve", devices, "tcp://127.0.0.1:0", after=4)


@pytest.mark.parametrize("scheme", ["tcp", "grpc"])
def test_a_teacher_whose_quick_model_hangs_all_of_a_sudden_stops_at_once(
    program: Path, scheme: str
) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    serve = [sys.executable, str(program), "stall", f"{scheme}://127.0.0.1:0"]
    with subprocess.Popen(serve, stdout=subprocess.PIPE, text=True, env=environment) as teacher:
        assert teacher.stdout is not None
        assert teacher.stdout.readline() == "ready\n"
        read = [sys.executable, str(program), "read", teacher.stdout.readline().strip()]
        with subprocess.Popen(read, stderr=subprocess.DEVNULL, env=environment) as student:
            assert teacher.stdout.readline() == "stalls\n"
            teacher.send_signal(signal.SIGINT)
            start = time.monotonic()
            try:
                assert teacher.wait(30) == 0
                assert time.monotonic() - start < PROMPT
            finally:
                teacher.kill()
                student.kill()


def test_a_student_waiting_for_a_teacher_stops_at_once(program: Path) -> None:
    assert interrupt(program, "wait", "tcp://127.0.0.1:9") != 0


def test_a_reading_student_stops_at_once(program: Path, tmp_path: Path) -> None:
    address = f"ipc://{tmp_path}/slow.sock"
    command = [sys.executable, str(program), "serve", "1", address]
    with subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)}) as teacher:
        assert interrupt(program, "read", address, after=4) != 0
        teacher.terminate()
        assert teacher.wait(5) == 0


def test_an_interrupted_dump_has_whole_shards_only_and_goes_on(
    program: Path, tmp_path: Path
) -> None:
    path = tmp_path / "dump"
    assert interrupt(program, "dump", str(path), after=3) != 0
    shards = list(path.glob("shard-*.safetensors"))
    assert shards
    before = {shard: shard.stat().st_mtime_ns for shard in shards}
    assert interrupt(program, "dump", str(path), after=3) != 0
    assert {shard: shard.stat().st_mtime_ns for shard in shards} == before
    assert len(list(path.glob("shard-*.safetensors"))) > len(shards)
    for shard in path.glob("shard-*.safetensors"):
        with safe_open(shard, "pt") as whole:
            assert whole.get_tensor("logits").shape == (256, 4)
