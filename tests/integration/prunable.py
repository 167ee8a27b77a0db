"""Nets to prune: of every kind of layer, each a factory with the inputs that it takes."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor, nn

from examples.vision import nets
from examples.vision.nets.ssdlite import ssdlite
from examples.vision.nets.unet import unet

os.environ.setdefault("HF_HUB_OFFLINE", "1")


class Mixed(nn.Module):
    """Concatenation, a split, grouped, depthwise and transposed convolutions, a group norm."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(3, 24, 3, padding=1)
        self.norm = nn.BatchNorm2d(40)
        self.expand = nn.Conv2d(40, 48, 1)
        self.grouped = nn.Conv2d(48, 48, 3, padding=1, groups=4)
        self.group_norm = nn.GroupNorm(4, 48)
        self.split = nn.Conv2d(48, 64, 1)
        self.split_norm = nn.BatchNorm2d(64)
        self.first, self.second = nn.Conv2d(32, 24, 1), nn.Conv2d(32, 24, 3, padding=1)
        self.depthwise = nn.Conv2d(24, 24, 3, padding=1, groups=24)
        self.up = nn.ConvTranspose2d(24, 20, 2, 2)
        self.up_norm = nn.BatchNorm2d(20)
        self.head = nn.Linear(20, 5)

    def forward(self, images: Tensor) -> Tensor:
        made = self.norm(torch.cat([self.left(images), self.right(images)], 1)).relu()
        made = self.group_norm(self.grouped(self.expand(made))).relu()
        made = self.split_norm(self.split(made)).relu()
        first, second = made.split([self.first.in_channels, self.second.in_channels], 1)
        made = self.depthwise(self.first(first) + self.second(second)).relu()
        logits: Tensor = self.head(self.up_norm(self.up(made)).relu().mean((2, 3)))
        return logits


SMALL = {
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "intermediate_size": 96,
    "num_labels": 5,
}


def vit() -> nn.Module:
    """A ViT of transformers."""
    from transformers import ViTConfig, ViTForImageClassification

    return ViTForImageClassification(ViTConfig(**SMALL, image_size=32, patch_size=8))


def bert() -> nn.Module:
    """A BERT of transformers."""
    from transformers import BertConfig, BertForSequenceClassification

    return BertForSequenceClassification(BertConfig(**SMALL, vocab_size=100))


def paper(name: str) -> nn.Module:
    """A net of examples/vision, a quarter as wide."""
    net: nn.Module = getattr(nets, name)(classes=5, width=0.25)
    return net


def segmenter() -> nn.Module:
    """A U-Net an eighth as wide."""
    return unet(classes=5, width=0.125)


def detector() -> nn.Module:
    """An SSDLite a quarter as wide."""
    return ssdlite(classes=5, width=0.25)


def images() -> Tensor:
    """Two of 32 pixels."""
    torch.manual_seed(11)
    return torch.randn(2, 3, 32, 32)


def inputs_of(name: str) -> Any:
    """What a net is called with, two rows."""
    if name == "vit":
        return {"pixel_values": images()}
    if name == "bert":
        return {"input_ids": torch.arange(24).reshape(2, 12)}
    return images()


NETS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (f"{__name__}:paper", {"name": name}) for name in nets.__all__},
    **{name: (f"{__name__}:{name}", {}) for name in ("vit", "bert", "segmenter", "detector")},
    "mixed": (f"{__name__}:Mixed", {}),
}
"""Factory and arguments of each net, by name."""
