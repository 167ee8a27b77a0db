"""One Compose project, driven through the engine's command line; every call ends in time."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "docker-compose.yml"
BUILD, START, QUICK = 1800, 300, 60
"""Seconds for building the image, for starting or scaling services, and for one question."""


class ClusterError(Exception):
    """The cluster did not do what it promises."""


def run(command: Sequence[str], timeout: float = QUICK, check: bool = True) -> str:
    """Run a command; answers its output.

    Raises:
        ClusterError: it failed, or took longer than `timeout` seconds.
    """
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired:
        raise ClusterError(f"{' '.join(command)} took more than {timeout:.0f} s") from None
    if check and done.returncode:
        raise ClusterError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout.strip()


def compose_command() -> list[str]:
    """Compose, as the plug-in or as a program of its own."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]):
            done = subprocess.run([*command, "version"], capture_output=True, check=False)
            if done.returncode == 0:
                return command
    raise ClusterError("neither 'docker compose' nor 'docker-compose' is here; install Compose")


def until(what: str, true: Callable[[], bool], timeout: float) -> None:
    """Ask again and again until something is true."""
    end = time.monotonic() + timeout
    while not true():
        if time.monotonic() > end:
            raise ClusterError(f"{what}: not within {timeout:.0f} s")
        time.sleep(0.3)


def inspect(container: str) -> Any:
    """What the engine says of a container."""
    return json.loads(run(["docker", "inspect", container]))[0]


class Project:
    """The services of docker-compose.yml under a name of their own."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._compose = [*compose_command(), "-p", name, "-f", str(FILE)]

    def build(self) -> None:
        """Build the image."""
        run([*self._compose, "build"], BUILD)

    def up(self, *arguments: str) -> None:
        """Start services in the background; those that run already are left alone."""
        run([*self._compose, "up", "-d", "--no-recreate", *arguments], START)

    def scale(self, replicas: int) -> None:
        """Have so many teachers, and wait until all of them answer."""
        self.up("--no-deps", "--scale", f"teacher={replicas}", "teacher")
        until(
            f"{replicas} healthy teachers",
            lambda: len(self.healthy()) == replicas == len(self.containers("teacher")),
            START,
        )

    def containers(self, service: str) -> list[str]:
        """The ids of a service's containers, stopped ones too."""
        filters = [f"label=com.docker.compose.{k}={v}" for k, v in self._labels(service)]
        options = [part for text in filters for part in ("--filter", text)]
        return run(["docker", "ps", "-aq", *options]).split()

    def _labels(self, service: str) -> list[tuple[str, str]]:
        return [("project", self.name), ("service", service)]

    def healthy(self) -> list[str]:
        """The teachers that run and are well."""
        states = {c: inspect(c)["State"] for c in self.containers("teacher")}
        return [c for c, s in states.items() if s.get("Health", {}).get("Status") == "healthy"]

    @property
    def student(self) -> str:
        """The student's container."""
        return self.containers("student")[0]

    def epoch(self) -> int:
        """Epochs that the student has done.

        Raises:
            ClusterError: it ended with a failure.
        """
        state = inspect(self.student)["State"]
        done = subprocess.run(
            ["docker", "logs", "--tail", "40", self.student],
            capture_output=True,
            text=True,
            timeout=QUICK,
            check=True,
        )
        if state["Status"] == "exited" and state["ExitCode"]:
            raise ClusterError(f"the student failed:\n{done.stdout}{done.stderr}")
        return max(map(int, re.findall(r"^epoch (\d+) ", done.stdout, re.M)), default=0)

    def running(self) -> bool:
        """Whether the student is at work."""
        return bool(inspect(self.student)["State"]["Running"])

    def results(self, folder: Path) -> Any:
        """Copy what the student wrote to a folder; answers its report."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        run(["docker", "cp", f"{self.student}:/out/.", str(folder)])
        return json.loads((folder / "report.json").read_text(encoding="utf-8"))

    def down(self) -> None:
        """Remove containers, networks and volumes."""
        run([*self._compose, "down", "-v", "-t", "5"], START)
