"""A stock MLServer in a process and an environment of its own."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from tests.mlserver_env import mlserver_python

RUNTIME = Path(__file__).with_name("mlserver_runtime.py")
MODEL = {
    "name": "linear",
    "implementation": "mlserver_runtime.Linear",
    "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 12]}],
    "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, 4]}],
}
START = "import sys; from mlserver.cli import main; sys.argv[0] = 'mlserver'; main()"


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def model_folder(home: Path, http: int, grpc: int) -> Path:
    """A folder as MLServer's manual asks for it: settings, the model's settings, and its code."""
    folder = home / "linear"
    folder.mkdir(parents=True)
    settings = {"host": "127.0.0.1", "http_port": http, "grpc_port": grpc}
    settings |= {"parallel_workers": 0, "metrics_endpoint": None, "debug": False}
    (home / "settings.json").write_text(json.dumps(settings))
    (folder / "model-settings.json").write_text(json.dumps(MODEL))
    shutil.copy(RUNTIME, folder)
    return home


def wait_until_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Return when the model answers; the server's own log tells why it never did."""
    deadline = time.monotonic() + 40
    with triton.InferenceServerClient(f"127.0.0.1:{port}") as client:
        while time.monotonic() < deadline and process.poll() is None:
            try:
                if client.is_model_ready("linear"):
                    return
            except InferenceServerException:
                pass
            time.sleep(0.1)
    raise AssertionError(f"MLServer is not ready (status {process.poll()}):\n{log.read_text()}")


@contextmanager
def mlserver(home: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """MLServer with one model, ``linear``; yields its process and its gRPC port."""
    http, grpc = free_ports(2)
    folder = model_folder(home, http, grpc)
    command = [str(mlserver_python()), "-c", START, "start", str(folder)]
    log = home / "log"
    with (
        log.open("wb") as output,
        subprocess.Popen(command, cwd=folder, stdout=output, stderr=output) as process,
    ):
        try:
            wait_until_ready(process, grpc, log)
            yield process, grpc
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
