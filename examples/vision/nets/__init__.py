"""Nets of the papers for images of any size: each is called with classes, width and stem stride."""

from examples.vision.nets.mobilenet3 import mobilenet_v3_large, mobilenet_v3_small
from examples.vision.nets.vgg import vgg16
from pantheon.nets import mobilenet_v1, mobilenet_v2, resnet18, resnet50

__all__ = [
    "mobilenet_v1",
    "mobilenet_v2",
    "mobilenet_v3_large",
    "mobilenet_v3_small",
    "resnet18",
    "resnet50",
    "vgg16",
]
