"""What a model costs: multiply-accumulates against counts by hand, and sizes."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pantheon.compress.measure import bytes_on_disk, macs, parameters
from pantheon.errors import ConfigError


class Vit(nn.Module):
    """Patches of 4 x 4 of a 3 x 8 x 8 image: 4 tokens of width 8, two layers, 10 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, stride=4)
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, 10)

    def forward(self, image: Tensor) -> Any:
        return self.head(self.encoder(self.patches(image).flatten(2).mT).mean(1))


VIT_LAYER = 4 * 8 * 24 + 2 * (4 * 4 * 8) + 4 * 8 * 8 + 2 * (4 * 8 * 16)
"""Queries, keys and values; scores and their use; the projection; the two of the feed-forward."""

VIT = 4 * 8 * (3 * 4 * 4) + 2 * VIT_LAYER + 8 * 10


def test_a_convolution_costs_its_kernel_at_every_output() -> None:
    conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)
    assert macs(conv, torch.zeros(2, 3, 8, 8)).total == 2 * (4 * 4) * 8 * (3 * 3 * 3)


def test_a_depthwise_convolution_costs_one_channel_at_every_output() -> None:
    conv = nn.Conv2d(8, 8, 3, padding=1, groups=8)
    assert macs(conv, torch.zeros(1, 8, 6, 6)).total == (6 * 6) * 8 * (3 * 3)


def test_a_linear_layer_costs_its_weights_for_every_row_and_its_bias_nothing() -> None:
    found = macs(nn.Linear(5, 7), torch.zeros(3, 5))
    assert (found.total, found.rows, found.modules) == (3 * 5 * 7, 3, {"": 105})
    assert macs(nn.Linear(5, 7, bias=False), torch.zeros(3, 5)).total == 3 * 5 * 7


def test_a_vision_transformer_costs_its_products_though_torch_would_fuse_them() -> None:
    found = macs(Vit(), torch.zeros(1, 3, 8, 8))
    assert found.total == VIT == 6224
    assert sum(found.modules.values()) == VIT
    assert found.modules["patches"] == 1536
    assert found.modules["encoder.layers.1.linear1"] == 4 * 8 * 16
    assert found.uncounted == ()
    assert macs(Vit(), torch.zeros(5, 3, 8, 8)).total == 5 * VIT


def test_bert_costs_its_products_with_inputs_by_name() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=11,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=8,
    )
    inputs = {
        "input_ids": torch.zeros(2, 5, dtype=torch.long),
        "attention_mask": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]),
    }
    found = macs(transformers.BertModel(config), inputs)
    layer = 4 * (5 * 16 * 16) + 2 * (5 * 5 * 16) + 2 * (5 * 16 * 32)
    assert found.total == 2 * (2 * layer + 16 * 16)
    assert found.modules["pooler.dense"] == 2 * 16 * 16
    assert (found.rows, found.uncounted) == (2, ())


def test_a_recurrent_layer_costs_its_products_though_libraries_would_fuse_them() -> None:
    gates = 4 * 5
    assert macs(nn.LSTM(4, 5), torch.zeros(3, 2, 4)).total == 3 * 2 * gates * (4 + 5)


def test_inputs_in_a_tuple_go_in_by_position() -> None:
    assert macs(nn.Bilinear(2, 3, 4), (torch.zeros(1, 2), torch.zeros(1, 3))).rows == 1


def test_a_shared_module_counts_each_time_it_runs() -> None:
    layer = nn.Linear(4, 4)
    found = macs(nn.Sequential(layer, nn.ReLU(), layer), torch.zeros(1, 4))
    assert (found.total, found.modules) == (32, {"0": 32})


def test_products_without_a_formula_are_named() -> None:
    class Product(nn.Module):
        def forward(self, matrix: Tensor) -> Tensor:
            return torch.mv(matrix, matrix[0])

    found = macs(Product(), torch.zeros(3, 3))
    assert (found.total, found.uncounted) == (0, ("aten::mv",))


def test_only_the_largest_modules_are_kept() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 9), nn.Linear(9, 1))
    found = macs(model, torch.zeros(1, 2), largest=2)
    assert (found.total, list(found.modules.items())) == (42, [("1", 27), ("2", 9)])
    with pytest.raises(ConfigError, match="largest is -1"):
        macs(model, torch.zeros(1, 2), largest=-1)


def kernels() -> tuple[bool, bool]:
    """Whether attention may be fused, and whether it may be taken apart."""
    cuda: Any = torch.backends.cuda
    return cuda.flash_sdp_enabled(), cuda.math_sdp_enabled()


class Nosy(nn.Module):
    """Notes the circumstances of its forward, then fails if asked to."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Dropout(), nn.Dropout())
        self.inner[1].eval()
        self.seen: list[Any] = []

    def forward(self, fail: bool) -> None:
        self.seen = [
            any(module.training for module in self.modules()),
            torch.is_grad_enabled(),
            torch.backends.mha.get_fastpath_enabled(),
            *kernels(),
        ]
        if fail:
            raise RuntimeError("failed")


@pytest.mark.parametrize("fail", [False, True])
def test_everything_is_as_it_was_after_a_forward_even_a_failed_one(fail: bool) -> None:
    model = Nosy()
    if fail:
        with pytest.raises(RuntimeError, match="failed"):
            macs(model, fail)
    else:
        macs(model, fail)
    assert model.seen == [False, False, False, False, True]
    assert [module.training for module in model.modules()] == [True, True, True, False]
    assert torch.is_grad_enabled()
    assert torch.backends.mha.get_fastpath_enabled()
    assert kernels() == (True, True)
    assert not any(module._forward_hooks for module in model.modules())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_fast_path_that_was_off_stays_off() -> None:
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        macs(nn.Linear(1, 1), torch.zeros(1, 1))
        assert not torch.backends.mha.get_fastpath_enabled()
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


def test_macs_and_parameters_fit_into_json() -> None:
    found = [asdict(macs(Vit(), torch.zeros(1, 3, 8, 8))), asdict(parameters(Vit()))]
    told = json.loads(json.dumps(found))
    assert told[0]["total"] == VIT
    assert told[0]["counter"].startswith("torch.utils.flop_counter")


def test_shared_parameters_and_buffers_count_once_and_frozen_ones_are_not_trainable() -> None:
    shared, norm = nn.Linear(4, 4), nn.BatchNorm1d(4)
    model = nn.ModuleList([shared, shared, norm, norm, nn.Linear(4, 2, bias=False)])
    model[4].weight.requires_grad_(False)
    found = parameters(model)
    assert (found.total, found.trainable) == (16 + 4 + 4 + 4 + 8, 28)
    assert found.buffers == 4 + 4 + 1


def test_weights_tied_across_modules_count_once() -> None:
    model = nn.Sequential(nn.Embedding(6, 3), nn.Linear(3, 6, bias=False))
    model[1].weight = model[0].weight
    assert parameters(model).total == 18


def test_bytes_on_disk_are_of_a_file_or_of_a_folder_with_links_once(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "a").write_bytes(bytes(10))
    (tmp_path / "inner" / "b").write_bytes(bytes(7))
    (tmp_path / "inner" / "a again").symlink_to(tmp_path / "a")
    assert bytes_on_disk(tmp_path / "a") == 10
    assert bytes_on_disk(tmp_path) == 17
    with pytest.raises(ConfigError, match="nothing is at"):
        bytes_on_disk(tmp_path / "missing")
