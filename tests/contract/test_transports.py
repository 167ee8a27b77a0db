"""Every transport of ours keeps the contract that we ship."""

from __future__ import annotations

import itertools

from pantheon.testing import TransportContract

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
