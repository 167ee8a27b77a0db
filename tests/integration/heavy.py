"""A teacher whose batches weigh 50 MB, in a process of its own: prints its address."""

from __future__ import annotations

import json

import torch
from torch import Tensor

from pantheon.dataset import Ids
from teacher_server import serve
from teacher_server.teacher import Teacher

BATCH = 32
ROW = 50_000_000 // 4 // BATCH


def heavy(ids: Tensor) -> Tensor:
    """Rows of 1.6 MB, each filled with its id."""
    return ids.to(torch.float32).unsqueeze(1).expand(-1, ROW)


if __name__ == "__main__":
    torch.set_num_threads(1)
    serve(
        {"heavy": Teacher(heavy, Ids(4096), schema={"feature": "float32"}, revision="1")},
        "tcp://127.0.0.1:0",
        "grpc://127.0.0.1:0",
        ready=lambda addresses: print(json.dumps(addresses), flush=True),
    )
