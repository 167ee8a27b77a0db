"""Nets of the papers whose stages are arguments, so that spaces can be made of them."""

from pantheon.nets.mobilenet1 import mobilenet_v1
from pantheon.nets.mobilenet2 import mobilenet_v2
from pantheon.nets.resnet import resnet18, resnet50

__all__ = ["mobilenet_v1", "mobilenet_v2", "resnet18", "resnet50"]
