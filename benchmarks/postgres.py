"""A PostgreSQL server of one's own, in a temporary folder, for tests and benchmarks.

``make integration`` runs ``python -m benchmarks.postgres``, which says where the server's programs
are, and installs Debian's package where they are not. Servers here have nothing to do with a
cluster that the package may make.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

OWNER = "postgres"
"""Who runs servers where we are root, which PostgreSQL refuses; Debian's package makes it."""

USER, PASSWORD = "pantheon", "a-word-of-its-own"
READY_S, DOWN_S = 20.0, 20.0


def programs() -> Path | None:
    """The folder that has ``initdb`` and ``postgres``, the newest of several; None if none has."""
    debian = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    found = [path for path in debian if path.parent.parent.name.isdigit()]
    if found:
        return max(found, key=lambda path: int(path.parent.parent.name)).parent
    elsewhere = shutil.which("initdb")
    return Path(elsewhere).resolve().parent if elsewhere else None


def lacking() -> str | None:
    """Why no server can be run here; None if one can."""
    if programs() is None:
        return "PostgreSQL is not installed; apt-get install postgresql, or run make integration"
    if os.geteuid() == 0 and OWNER not in {entry.pw_name for entry in pwd.getpwall()}:
        return f"PostgreSQL refuses to run as root, and there is no user {OWNER!r}"
    return None


def install() -> None:
    """Install Debian's package where it is lacking, and where we may; say if that fails."""
    if lacking() is None or os.geteuid() != 0 or shutil.which("apt-get") is None:
        return
    quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    package = ["install", "-qq", "-y", "--no-install-recommends", "postgresql"]
    try:
        for command in (["update", "-qq"], package):
            subprocess.run(["apt-get", *command], check=True, env=quiet, timeout=300)
    except subprocess.SubprocessError as error:
        print(f"PostgreSQL was not installed, so that its tests are skipped: {error}")


class Server:
    """One server, which listens at a port of loopback; who comes needs a password.

    Args:
        folder: of its own, which its owner may write to.
        settings: of ``postgresql.conf``.
    """

    def __init__(self, folder: Path, settings: Sequence[str] = ()) -> None:
        found = programs()
        assert found is not None, lacking()
        self.folder, self.settings, self._programs = folder, settings, found
        self._owner = OWNER if os.geteuid() == 0 else None
        self._made = 0
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self._initialise()

    def fresh(self) -> str:
        """The address of a database with nothing in it."""
        self._made += 1
        self.ask(f"CREATE DATABASE search{self._made}")
        return f"postgresql://{USER}:{PASSWORD}@127.0.0.1:{self.port}/search{self._made}"

    def start(self) -> None:
        """Start it; answers when it does.

        Raises:
            TimeoutError: it does not in time; tells what it said.
        """
        options = [f"port={self.port}", "listen_addresses=127.0.0.1"]
        options += [f"unix_socket_directories={self.folder}", *self.settings]
        command = ["postgres", "-D", str(self.folder / "data")]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._named([*command, *(word for each in options for word in ("-c", each))]),
                stdout=log,
                stderr=log,
                cwd=self.folder,
                user=self._owner,
                group=self._owner,
                extra_groups=[] if self._owner else None,
            )
        end = time.monotonic() + READY_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > end:
                raise TimeoutError(f"the server did not start: {self.said()[-2000:]}")
            time.sleep(0.05)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End it: SIGINT breaks connections off, SIGQUIT leaves without writing anything more."""
        if self._process is not None:
            self._process.send_signal(how)
            try:
                self._process.wait(DOWN_S)
            finally:
                self._process.kill()
                self._process.wait()
                self._process = None

    def said(self) -> str:
        """Its log."""
        return (self.folder / "log").read_text(encoding="utf-8", errors="replace")

    def ask(self, query: str) -> str:
        """What a query answers, on the server's own socket."""
        command = ["psql", "-h", str(self.folder), "-p", str(self.port), "-U", USER, "postgres"]
        return self._run([*command, "-tAc", query])

    def _initialise(self) -> None:
        word = self.folder / "word"
        word.write_text(PASSWORD)
        if self._owner:
            for path in (self.folder, word):
                shutil.chown(path, self._owner, self._owner)
        words = ["-U", USER, "--auth-local=trust", "--auth-host=scram-sha-256"]
        self._run(["initdb", "-D", f"{self.folder}/data", *words, f"--pwfile={word}", "-N"])

    def _answers(self) -> bool:
        command = ["pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(self._named(command), check=False).returncode == 0

    def _run(self, command: Sequence[str]) -> str:
        done = subprocess.run(
            self._named(command),
            capture_output=True,
            text=True,
            cwd=self.folder,
            timeout=60,
            user=self._owner,
            group=self._owner,
            extra_groups=[] if self._owner else None,
        )
        if done.returncode:
            raise RuntimeError(f"{command[0]} failed: {done.stderr or done.stdout}")
        return done.stdout.strip()

    def _named(self, command: Sequence[str]) -> list[str]:
        return [str(self._programs / command[0]), *command[1:]]


@contextmanager
def server(*settings: str) -> Iterator[Server]:
    """A server while the block lasts, with nothing in it.

    Args:
        settings: of ``postgresql.conf``, such as ``"fsync=off"``.
    """
    with tempfile.TemporaryDirectory(prefix="pantheon-postgres-") as folder:
        made = Server(Path(folder), settings)
        try:
            made.start()
            yield made
        finally:
            made.stop()


if __name__ == "__main__":
    install()
    sys.stdout.write(f"{programs() or lacking()}\n")
