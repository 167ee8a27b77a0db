"""The photographs that scikit-image and scikit-learn bring inside their wheels."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pantheon.errors import ConfigError

Pixels = NDArray[np.uint8]


class Photograph(NamedTuple):
    """A picture file of an installed package.

    Args:
        package: the package to import it from; nothing of it is imported.
        file: its path inside the package.
        shrink: how many pixels of a side become one, where a picture is larger than it is sharp.
    """

    package: str
    file: str
    shrink: int = 1


PHOTOGRAPHS = (
    Photograph("skimage", "data/astronaut.png"),
    Photograph("skimage", "data/chelsea.png"),
    Photograph("skimage", "data/coffee.png"),
    Photograph("skimage", "data/hubble_deep_field.jpg"),
    Photograph("skimage", "data/ihc.png"),
    Photograph("skimage", "data/motorcycle_left.png"),
    Photograph("skimage", "data/retina.jpg", shrink=2),
    Photograph("skimage", "data/rocket.jpg"),
    Photograph("sklearn", "datasets/images/china.jpg"),
    Photograph("sklearn", "datasets/images/flower.jpg"),
    Photograph("skimage", "data/brick.png"),
    Photograph("skimage", "data/camera.png"),
    Photograph("skimage", "data/coins.png"),
    Photograph("skimage", "data/grass.png"),
    Photograph("skimage", "data/gravel.png"),
    Photograph("skimage", "data/moon.png"),
    Photograph("skimage", "data/page.png"),
)
"""Ten in colour, then seven in grey. All of them lie in the wheels; nothing is downloaded.

The wheels' other pictures are drawings, too blurred or too small, or show the same scene again.
"""


@cache
def load(photograph: Photograph) -> Pixels:
    """A photograph's pixels, uint8 ``[3, height, width]``; three equal channels where it is grey.

    Raises:
        ConfigError: its package is not installed, or came without the file.

    Example:
        >>> load(PHOTOGRAPHS[0]).shape
        (3, 512, 512)
    """
    path = _folder(photograph.package) / photograph.file
    if not path.is_file():
        raise ConfigError(
            f"there is no {path}: expected the picture that the wheel of {photograph.package} "
            "holds; install it anew, with pip install -c constraints.txt 'pantheon-kd[vision]'"
        )
    from PIL import Image  # scikit-image brings it

    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    made = shrunk(pixels, photograph.shrink)
    made.flags.writeable = False
    return made


def _folder(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ConfigError(
            f"{package} is not installed, and its photographs are what views are made of; "
            "pip install 'pantheon-kd[vision]'"
        )
    return Path(spec.origin).parent


def shrunk(pixels: Pixels, factor: int) -> Pixels:
    """Pictures whose pixels are means of squares of `factor` by `factor`, rounded half up.

    Args:
        pixels: uint8 ``[..., height, width]``; rows and columns that fill no square are cut off.

    Example:
        >>> shrunk(np.array([[0, 1, 9], [1, 0, 9]], np.uint8), 2).tolist()
        [[1]]
    """
    *batch, height, width = pixels.shape
    rows, columns = height // factor, width // factor
    whole = pixels[..., : rows * factor, : columns * factor].astype(np.int64)
    sums = whole.reshape(*batch, rows, factor, columns, factor).sum(axis=(-3, -1))
    area = factor * factor
    return np.asarray((2 * sums + area) // (2 * area), np.uint8)
