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
