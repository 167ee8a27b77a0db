"""What ONNX Runtime answers is compared with torch in every output, and timed for its rows."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pantheon.compress.export import Export
from pantheon.errors import CompressionError


class Two(nn.Module):
    """Two outputs; the second is of a root."""

    def __init__(self, shift: float) -> None:
        super().__init__()
        self.shift = shift

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x * 2, torch.sqrt(x + self.shift)


def test_no_output_may_differ_nor_be_nan(tmp_path: Path) -> None:
    file, inputs = tmp_path / "model.onnx", torch.rand(4, 3)
    stage = Export()
    stage.write(Two(-9.0).eval(), inputs, file)
    with pytest.raises(CompressionError, match="differ from torch's by nan"):
        stage.verify(Two(1.0).eval(), inputs, file)
    stage.write(Two(1.0).eval(), inputs, file)
    assert stage.verify(Two(1.0).eval(), inputs, file)["largest_difference"] < 1e-6


@pytest.mark.parametrize(("dynamic", "rows"), [(True, 1), (False, 4)])
def test_the_latency_says_of_how_many_rows_it_is(tmp_path: Path, dynamic: bool, rows: int) -> None:
    stage, model, inputs = Export(dynamic_batch=dynamic), Two(1.0).eval(), torch.rand(4, 3)
    stage.write(model, inputs, tmp_path / "model.onnx")
    assert stage.verify(model, inputs, tmp_path / "model.onnx")["latency"]["rows"] == rows


def test_a_file_does_not_tell_where_it_was_made(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    Export().write(Two(1.0).eval(), torch.rand(4, 3), file)
    assert Path(__file__).name.encode() not in file.read_bytes()
    assert b"name_scopes" in file.read_bytes()


class Decomposed(nn.Module):
    """An operation that ONNX does not have."""

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = torch.linalg.qr(x)[0]
        return answer


class Choosing(nn.Module):
    """What it does depends on what it is given."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize(
    ("odd", "said"),
    [
        (Decomposed(), r"ONNX, which has no operator for linalg_qr of 1\.0; replace"),
        (Choosing(), r"torch.export cannot follow the Sequential within '1\.0': GuardOnData"),
    ],
)
def test_an_operator_that_cannot_be_exported_is_named_with_its_module(
    odd: nn.Module, said: str, tmp_path: Path
) -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Sequential(odd)).eval()
    with pytest.raises(CompressionError, match=said):
        Export().write(net, torch.randn(4, 4), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
