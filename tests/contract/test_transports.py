"""Every transport of ours keeps the contract that we ship."""

from __future__ import annotations

import atexit
import functools
import itertools
import shutil
import tempfile
from pathlib import Path

import trustme

from pantheon.testing import TransportContract
from pantheon.transport import Connection, Curve, Listener, Tls, connect, listen
from pantheon.transport.keys import generate

_names = itertools.count()


class TestTcp(TransportContract):
    def listen_address(self) -> str:
        return "tcp://127.0.0.1:0"


class TestTcp6(TransportContract):
    def listen_address(self) -> str:
        return "tcp://[::1]:0"


class TestIpc(TransportContract):
    def listen_address(self) -> str:
        return f"ipc://{self.folder}/socket"


class TestInproc(TransportContract):
    def listen_address(self) -> str:
        return f"inproc://contract-{next(_names)}"


class TestGrpc(TransportContract):
    def listen_address(self) -> str:
        return "grpc://127.0.0.1:0"


class TestCurve(TransportContract):
    """Over CURVE, between two ends that know each other's keys."""

    def listen_address(self) -> str:
        return "tcp://127.0.0.1:0"

    def _keys(self) -> Curve:
        generate(self.folder / "keys")
        return Curve(self.folder / "keys")

    def listen(self, address: str) -> Listener:
        return listen(address, security=self._keys())

    def connect(self, address: str) -> Connection:
        return connect(address, security=self._keys())


class TestMutualTls(TransportContract):
    """Over gRPC, between two ends whose certificates one authority signed."""

    def listen_address(self) -> str:
        return "grpc://127.0.0.1:0"

    def listen(self, address: str) -> Listener:
        return listen(address, security=certificate())

    def connect(self, address: str) -> Connection:
        return connect(address, security=certificate())


@functools.cache
def certificate() -> Tls:
    """A certificate for this machine, and its authority."""
    folder = Path(tempfile.mkdtemp(prefix="pantheon-tls-"))
    atexit.register(shutil.rmtree, folder)
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1", "localhost", "::1")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    issued.private_key_pem.write_to_path(folder / "own.key")
    (folder / "own.key").chmod(0o600)
    issued.cert_chain_pems[0].write_to_path(folder / "own.pem")
    return Tls(folder / "ca.pem", folder / "own.pem", folder / "own.key")
