"""The command line: errors in one message, statuses that scripts can read, help without torch."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

PANTHEON = [sys.executable, "-m", "pantheon"]

TEACHER = """\
name: line
model: mine:model
dataset: mine:data
revision: "1"
schema: {y: float32}
"""

MINE = """\
import time
import torch

def model():
    return lambda x: 2 * x

def slow():
    def answer(x):
        time.sleep(0.05)
        return x
    return answer

def data(size=100):
    return torch.arange(float(size)).unsqueeze(1)

def broken():
    raise OSError("no such weights")

def nothing():
    return None

def student():
    return torch.nn.Linear(1, 1)
"""

STUDENT = """\
model: mine:student
dataset: mine:data
batch_size: 10
teachers: {line: dump}
losses: [{loss: mse, field: y}]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "teacher.yaml").write_text(TEACHER)
    (tmp_path / "student.yaml").write_text(STUDENT)
    (tmp_path / "mine.py").write_text(MINE)
    return tmp_path


def pantheon(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder, to its end."""
    return subprocess.run(
        [*PANTHEON, *arguments],
        cwd=folder,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=50,
    )


def refused(folder: Path, status: int, *arguments: str) -> str:
    """The one message of a command that must fail, without a traceback."""
    done = pantheon(folder, *arguments)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ")
    assert not done.stdout
    return done.stderr


def test_a_typo_ends_with_file_line_and_nearest_key(folder: Path) -> None:
    (folder / "teacher.yaml").write_text(TEACHER.replace("schema", "shcema"))
    message = refused(folder, 2, "serve", "teacher.yaml", "--bind", "tcp://127.0.0.1:0")
    assert "teacher.yaml:5: unknown key 'shcema'; did you mean 'schema'?" in message


@pytest.mark.parametrize(
    ("change", "status", "says"),
    [
        (("mine:model", "mine:modle"), 2, "teacher.yaml:2: model: mine has no 'modle'; did you"),
        (("mine:model", "yours:model"), 2, "teacher.yaml:2: model: there is no module 'yours'"),
        (("float32", "float33"), 2, "teacher.yaml:5: schema.y: no codec is called 'float33'"),
        (("mine:model", "mine:broken"), 2, "teacher.yaml:2: model: mine:broken raised OSError: no"),
        (("dataset: mine:data\n", ""), 2, "a dump needs the dataset"),
        (('revision: "1"\n', ""), 2, "revision"),
    ],
)
def test_a_dump_that_cannot_be_says_why(
    folder: Path, change: tuple[str, str], status: int, says: str
) -> None:
    assert change[0] in TEACHER
    (folder / "teacher.yaml").write_text(TEACHER.replace(*change))
    assert says in refused(folder, status, "dump", "teacher.yaml", "dump")
    assert not (folder / "dump").exists()


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ("device: cud", "student.yaml:6: device: 'cud' is no device"),
        ("output: mine.py/w", "student.yaml:6: output: cannot make the folder mine.py"),
        ("ids: mine:nothing", "student.yaml:6: ids: mine:nothing answered None; expected the ids"),
        ("merge: {y: {weighted: {line: x}}}", "student.yaml:6: merge.y: expected a merge's name"),
    ],
)
def test_a_student_that_cannot_be_is_refused_before_it_is_trained(
    folder: Path, more: str, says: str
) -> None:
    assert pantheon(folder, "dump", "teacher.yaml", "dump").returncode == 0
    (folder / "student.yaml").write_text(f"{STUDENT}{more}\n")
    assert says in refused(folder, 2, "distill", "student.yaml")


def test_a_dump_goes_to_the_file_system_that_its_path_names(folder: Path) -> None:
    done = pantheon(folder, "dump", "teacher.yaml", "memory://dump")
    assert done.returncode == 0
    assert "memory://dump: wrote" in done.stdout
    assert not (folder / "memory:").exists()
    assert "no file system reads this path" in refused(folder, 1, "dump", "teacher.yaml", "s9://d")


def test_a_folder_that_cannot_be_made_is_named(folder: Path) -> None:
    message = refused(folder, 1, "dump", "teacher.yaml", "/proc/none/dump")
    assert "cannot make the folder /proc/none/dump" in message


def test_a_server_for_everybody_has_to_be_asked_for(folder: Path) -> None:
    message = refused(folder, 2, "serve", "teacher.yaml", "--bind", "tcp://0.0.0.0:0")
    assert "insecure" in message


def test_a_server_without_an_address_says_how_to_give_one(folder: Path) -> None:
    assert "--bind" in refused(folder, 2, "serve", "teacher.yaml")


def test_nobody_at_an_address_is_an_error(folder: Path) -> None:
    message = refused(folder, 1, "inspect", "tcp://127.0.0.1:9", "--patience", "0.5")
    assert "tcp://127.0.0.1:9" in message


def test_a_path_without_a_dump_is_an_error(folder: Path) -> None:
    assert "nothing" in refused(folder, 1, "inspect", "nothing")


def test_a_traceback_is_shown_when_asked_for(folder: Path) -> None:
    done = pantheon(folder, "--debug", "inspect", "nothing")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_a_dump_is_made_shown_checked_and_learned_from(folder: Path) -> None:
    made = pantheon(folder, "dump", "teacher.yaml", "dump")
    assert made.returncode == 0, made.stderr
    assert "wrote 1 shards with 100 rows" in made.stdout
    shown = pantheon(folder, "inspect", "dump", "--rows", "1", "--verify")
    assert shown.returncode == 0, shown.stderr
    for part in ("100 (0-99)", "float32 [1] as float32", "every byte  checked", "sample 0"):
        assert part in shown.stdout
    learned = pantheon(folder, "distill", "student.yaml", "--json")
    assert learned.returncode == 0, learned.stderr
    assert json.loads(learned.stdout.splitlines()[0])["samples"] == 100
    (shard,) = (folder / "dump").glob("shard-*.safetensors")
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    assert "checksum" in refused(folder, 1, "inspect", "dump", "--rows", "0", "--verify")


def test_several_files_are_models_of_one_server(folder: Path) -> None:
    (folder / "other.yaml").write_text(TEACHER.replace("name: line", "name: other"))
    address = f"ipc://{folder}/two.sock"
    command = [*PANTHEON, "serve", "teacher.yaml", "other.yaml", "--bind", address, "--json"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        ready = json.loads(server.stdout.readline())
        assert ready == {"addresses": [address], "models": ["line", "other"]}
        shown = pantheon(folder, "inspect", f"{address}#other", "--json")
        server.terminate()
        assert server.wait(10) == 0
    found = json.loads(shown.stdout)
    assert found["model"] == "other"
    assert found["sample"][2]["y"] == {"shape": [1], "first": [4.0]}


def test_ctrl_c_ends_a_dump_in_time_with_status_130(folder: Path) -> None:
    text = TEACHER.replace("mine:model", "mine:slow") + "batch_rows: 1\nshard_rows: 10\n"
    (folder / "teacher.yaml").write_text(text)
    command = [*PANTHEON, "dump", "teacher.yaml", "dump"]
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True) as dump:
        deadline = time.monotonic() + 30
        while not list((folder / "dump").glob("shard-*.safetensors")):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert interrupt(dump) == 130
        assert dump.stderr is not None
        assert "Traceback" not in dump.stderr.read()
    done = pantheon(folder, "dump", "teacher.yaml", "dump", "--json")
    assert json.loads(done.stdout)["skipped"] >= 1


def test_help_and_version_need_no_torch(folder: Path) -> None:
    (folder / "torch.py").write_text("raise ImportError('torch was imported')\n")
    for arguments in (["--help"], ["--version"], ["distill", "--help"], ["demo", "--help"]):
        done = pantheon(folder, *arguments)
        assert done.returncode == 0, done.stderr


def test_an_unknown_command_or_option_is_a_usage_error(folder: Path) -> None:
    for arguments in (["sevre"], ["serve", "--bnid", "x"]):
        done = pantheon(folder, *arguments)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr


def test_ctrl_c_ends_a_student_that_waits_for_its_teacher(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(30)
        address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        text = STUDENT.replace("{line: dump}", f"{{line: '{address}'}}\npatience: 600")
        (folder / "student.yaml").write_text(text)
        with subprocess.Popen([*PANTHEON, "distill", "student.yaml"], cwd=folder) as student:
            silent.accept()[0].close()
            assert interrupt(student) == 130


def test_ctrl_c_ends_the_demo_and_its_teacher(folder: Path) -> None:
    command = [*PANTHEON, "demo", "--out", "demo", "--epochs", "1000"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        assert any("in a process of its own" in line for line in demo.stdout)
        teachers = psutil.Process(demo.pid).children()
        assert teachers
        assert interrupt(demo) == 130
        assert not psutil.wait_procs(teachers, 2)[1]


def interrupt(process: subprocess.Popen[str]) -> int:
    """Press Ctrl-C; answers the status, which must come within 2 seconds."""
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    status = process.wait(10)
    assert time.monotonic() - began < 2
    return status
