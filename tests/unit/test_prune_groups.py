"""Which channels go together, and what is left of a model without some of them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from examples.vision import nets
from pantheon.compress.prune.choosing import fixed_ratios
from pantheon.compress.prune.grouping import structure_of
from pantheon.compress.prune.groups import Structure, sharing
from pantheon.errors import CompressionError, ConfigError

IMAGES = torch.linspace(-1, 1, 2 * 3 * 8 * 8).reshape(2, 3, 8, 8)


class Concatenated(nn.Module):
    """Two branches side by side, to which a third is added."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 6, 1)
        self.added, self.head = nn.Conv2d(3, 10, 1), nn.Conv2d(10, 2, 1)

    def forward(self, images: Tensor) -> Tensor:
        both = torch.cat([self.left(images), self.right(images)], 1)
        made: Tensor = self.head(both + self.added(images))
        return made


class Split(nn.Module):
    """One convolution whose halves go different ways."""

    def __init__(self) -> None:
        super().__init__()
        self.both = nn.Conv2d(3, 10, 1)
        self.left, self.right = nn.Conv2d(4, 2, 1), nn.Conv2d(6, 2, 1)

    def forward(self, images: Tensor) -> Tensor:
        sizes = [self.left.in_channels, self.right.in_channels]
        left, right = self.both(images).split(sizes, dim=1)
        made: Tensor = self.left(left) + self.right(right)
        return made


class Grouped(nn.Module):
    """Grouped and transposed convolutions and a group norm."""

    def __init__(self) -> None:
        super().__init__()
        self.expand, self.grouped = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 12, 3, groups=4, padding=1)
        self.norm, self.up = nn.GroupNorm(2, 12), nn.ConvTranspose2d(12, 6, 2, 2)
        self.head = nn.Conv2d(6, 2, 1)

    def forward(self, images: Tensor) -> Tensor:
        made: Tensor = self.head(self.up(self.norm(self.grouped(self.expand(images)))))
        return made


class Attention(nn.Module):
    """Two heads of four channels each."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads, self.head_dim = 2, 4
        self.query, self.key, self.value = (nn.Linear(6, 8) for _ in range(3))
        self.out = nn.Linear(8, 6)

    def forward(self, tokens: Tensor) -> Tensor:
        shape = (*tokens.shape[:-1], self.num_heads, self.head_dim)
        query, key, value = (
            layer(tokens).view(shape).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        mixed = torch.softmax(query @ key.transpose(-1, -2) / 2.0, -1) @ value
        made: Tensor = self.out(mixed.transpose(1, 2).reshape(*tokens.shape[:-1], -1))
        return made


class Tokens(nn.Module):
    """Attention and a feed-forward layer around a residual stream."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.attention = nn.Linear(5, 6), Attention()
        self.norm, self.up, self.down = nn.LayerNorm(6), nn.Linear(6, 10), nn.Linear(10, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, rows: Tensor) -> Tensor:
        made = self.embed(rows)
        made = made + self.attention(self.norm(made))
        made = made + self.down(torch.relu(self.up(made)))
        answered: Tensor = self.head(made.mean(1))
        return answered


def sizes(structure: Structure) -> dict[str, int]:
    return {name: group.units for name, group in structure.groups.items()}


def test_channels_side_by_side_are_groups_of_their_own() -> None:
    found = structure_of(Concatenated(), IMAGES)
    assert sizes(found) == {"left": 4, "right": 6}
    assert [rows.path for rows in found.groups["right"].makers] == ["right", "added"]
    assert found.groups["right"].makers[1].indices == (4, 5, 6, 7, 8, 9)


def test_both_ways_of_a_split_can_lose_channels() -> None:
    found = structure_of(Split(), IMAGES)
    assert sizes(found) == {"both": 4, "both#2": 6}
    model = found.pruned({"both": [0], "both#2": [0, 1]})
    assert model.get_submodule("left").in_channels == 3
    assert model.get_submodule("right").in_channels == 4


def test_a_ratio_of_a_layer_is_that_of_all_its_parts() -> None:
    found = structure_of(Split(), IMAGES)
    assert fixed_ratios({"both": 0.5}, found.groups) == {"both": 0.5, "both#2": 0.5}


def test_groups_lose_the_same_position_each() -> None:
    found = structure_of(Grouped(), IMAGES)
    assert sizes(found) == {"expand": 2, "grouped": 3, "up": 6}
    model = found.pruned({"expand": [1], "grouped": [0, 2]})
    assert model.get_submodule("expand").weight.shape == (4, 3, 1, 1)
    grouped = model.get_submodule("grouped")
    assert (grouped.in_channels, grouped.out_channels, grouped.groups) == (4, 4, 4)
    assert model.get_submodule("norm").num_channels == 4


def test_heads_go_as_a_whole() -> None:
    found = structure_of(Tokens(), torch.randn(2, 3, 5))
    assert sizes(found) == {"embed": 6, "attention.query": 2, "up": 10}
    edit = found.edit({"attention.query": [0]})
    assert edit.attributes == {"attention": {"num_heads": 1}}
    for path in ("attention.query", "attention.key", "attention.value"):
        assert edit.modules[path] == {"out": (4, 5, 6, 7)}
    assert edit.modules["attention.out"] == {"in": (4, 5, 6, 7)}
    assert found.pruned({"attention.query": [0]})(torch.randn(2, 3, 5)).shape == (2, 3)


def halved(structure: Structure) -> dict[str, range]:
    return {name: range(group.units // 2) for name, group in structure.groups.items()}


def trains(model: nn.Module, call: Callable[[nn.Module], Any]) -> None:
    model.train()
    loss = call(model).square().mean()
    loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("build", [Concatenated, Split, Grouped])
def test_a_net_without_half_of_its_units_runs_forward_and_backward(
    build: Callable[[], nn.Module],
) -> None:
    model = build()
    structure = structure_of(model, IMAGES)
    edited = structure.edit(halved(structure)).apply(copy.deepcopy(model))
    assert sum(p.numel() for p in edited.parameters()) < sum(p.numel() for p in model.parameters())
    trains(edited, lambda net: net(IMAGES))


@pytest.mark.parametrize("name", nets.__all__)
def test_all_layers_of_the_papers_nets_but_the_last_can_lose_channels(name: str) -> None:
    torch.manual_seed(0)
    model = getattr(nets, name)(classes=3, width=0.25)
    images = torch.randn(2, 3, 32, 32)
    structure = structure_of(model, images)
    assert structure.excluded == {"head": "its answers would have another shape"}
    convs = [p for p, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    makers = {rows.path for group in structure.groups.values() for rows in group.makers}
    assert makers == set(convs) - {"head"}
    edited = structure.edit(halved(structure)).apply(copy.deepcopy(model))
    trains(edited, lambda net: net(images))


def test_a_transformers_vit_and_bert_lose_heads_neurons_and_width() -> None:
    from transformers import (
        BertConfig,
        BertForSequenceClassification,
        ViTConfig,
        ViTForImageClassification,
    )

    small = {
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 32,
    }
    vit = ViTForImageClassification(ViTConfig(**small, image_size=16, patch_size=4, num_labels=5))
    bert = BertForSequenceClassification(BertConfig(**small, vocab_size=50))
    asked = {
        vit: {"pixel_values": torch.randn(2, 3, 16, 16)},
        bert: {"input_ids": torch.arange(12).reshape(2, 6)},
    }
    for model, inputs in asked.items():
        structure = structure_of(model, inputs)
        units = sorted(sizes(structure).values())
        assert units.count(3) == units.count(32) == 2  # heads and neurons of two layers
        assert units.count(24) == (1 if model is vit else 2)  # the width, and BERT's pooler
        assert list(structure.excluded) == ["classifier"]
        edited = structure.edit(halved(structure)).apply(copy.deepcopy(model))
        trains(edited, lambda net, inputs=inputs: net(**inputs).logits)
        heads = [m for _, m in edited.named_modules() if hasattr(m, "num_attention_heads")]
        assert all(m.num_attention_heads == 2 for m in heads if isinstance(m, nn.Module))


def test_a_model_whose_code_has_sizes_keeps_the_layers_at_fault() -> None:
    class Stubborn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.conv, self.head = (
                nn.Conv2d(3, 4, 1),
                nn.Conv2d(4, 4, 1),
                nn.Linear(4 * 64, 2),
            )

        def forward(self, images: Tensor) -> Tensor:
            made: Tensor = self.head(self.conv(self.first(images)).reshape(-1, 4 * 64))
            return made

    found = structure_of(Stubborn(), IMAGES)
    assert sizes(found) == {"first": 4}
    assert "does not run without a channel" in found.excluded["conv"]


def test_a_layer_that_cannot_be_cut_keeps_what_depends_on_it() -> None:
    class Attended(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.attention = nn.Linear(2, 4), nn.MultiheadAttention(4, 1)
            self.out, self.head = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, tokens: Tensor) -> Tensor:
            made = self.up(tokens)
            mixed = self.attention(made, made, made)[0]
            answered: Tensor = self.head(self.out(mixed))
            return answered

    found = structure_of(Attended(), torch.ones(3, 2, 2))
    assert sizes(found) == {"out": 6}
    assert "MultiheadAttention cannot be selected" in found.excluded["up"]


def test_where_nothing_can_go_each_reason_is_named() -> None:
    with pytest.raises(ConfigError, match=r"no layer of the Sequential .*\(1: its answers would"):
        structure_of(nn.Sequential(nn.ReLU(), nn.Linear(2, 3)), torch.ones(1, 2))


def test_a_search_that_takes_too_long_names_the_layer() -> None:
    with pytest.raises(CompressionError, match="depends on the channels of 'left'; it"):
        structure_of(Concatenated(), IMAGES, seconds=-1)


def grouped_query_attention() -> tuple[nn.Module, dict[str, Tensor]]:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        vocab_size=50,
    )
    return LlamaForCausalLM(config), {"input_ids": torch.arange(12).reshape(2, 6)}


def test_grouped_query_attention_is_given_up_in_time_by_the_layer_that_stopped_it() -> None:
    model, inputs = grouped_query_attention()
    with pytest.raises(
        CompressionError, match=r"channels of 'model.layers.0.self_attn.q_proj'; it"
    ):
        structure_of(model, inputs, seconds=1)


def test_with_that_attention_kept_the_rest_can_be_pruned() -> None:
    model, inputs = grouped_query_attention()
    keep = [p for p, _ in model.named_modules() if p.endswith(("q_proj", "k_proj", "v_proj"))]
    found = structure_of(model, inputs, keep=keep, seconds=5)
    assert sorted(sizes(found).values()) == [32, 48, 48]
    assert found.excluded["model.layers.1.self_attn.k_proj"] == "kept, as asked for"
    edited = structure_of(model, inputs, keep=keep).edit(halved(found)).apply(copy.deepcopy(model))
    trains(edited, lambda net: net(**inputs).logits)


def test_what_goes_with_a_layer_that_is_kept_stays() -> None:
    with pytest.raises(ConfigError, match="left: goes with 'added', which is kept"):
        structure_of(Concatenated(), IMAGES, keep=["added"])


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        ({"lefd": [0]}, "no group 'lefd'; the nearest are 'left'"),
        ({"left": [4]}, "'left' has the units 0 to 3, of which one must stay; found [4]"),
        ({"left": [0, 1, 2, 3]}, "of which one must stay"),
        ({}, "nothing to select"),
    ],
)
def test_a_choice_that_cannot_be_is_named(chosen: dict[str, list[int]], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        structure_of(Concatenated(), IMAGES).edit(chosen)
    assert said in str(caught.value)


def test_a_copy_shares_its_tensors_until_they_are_cut() -> None:
    model = Concatenated()
    other = sharing(model)
    assert all(a is b for a, b in zip(model.parameters(), other.parameters(), strict=True))
    structure = structure_of(model, IMAGES)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    structure.pruned({"left": [0]})
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
