"""Views of a hundred regions of photographs: a data set that is made on the spot.

A class is a region of a photograph (`examples.vision.regions` has the rule), a sample is a random
view of it: shifted, scaled, turned, mirrored, in other colours and with noise. What generalises is
told from what was learned by heart by the shift: its square is divided into cells, and training,
validation and test have cells of their own.

``python -m examples.vision.data sheet.png`` draws some of it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from examples.vision.patches import IdArray, Patches
from examples.vision.photographs import Pixels
from examples.vision.views import PARTS


def patches(
    classes: int = 100,
    train: int = 200,
    validation: int = 50,
    test: int = 400,
    size: int = 32,
    seed: int = 0,
    hold: bool = False,
    cache: str | Path | None = None,
) -> Patches:
    """Random views of regions of photographs, a map-style dataset of (image, class).

    An image is float32 ``[3, size, size]``, as `normalised` makes it. The ids of the training views
    come first, then validation, then test; in each part the classes take turns.

    Args:
        classes: how many regions.
        train, validation, test: views of each class.
        size: pixels of a side, an even number from 8 to 128.
        seed: of all views.
        hold: keep view 0 of a part in memory, as uint8, from the first use of the part on.
        cache: a folder where they are kept in files as well, to be read by the next process.

    Raises:
        ConfigError: an argument that cannot be, or scikit-image or scikit-learn is not installed.

    Example:
        >>> views = patches(classes=10)
        >>> image, label = views[13]
        >>> len(views), image.shape, label
        (6500, torch.Size([3, 32, 32]), 3)
    """
    return Patches(classes, train, validation, test, size, seed, hold, cache)


def train_part(dataset: Patches) -> IdArray:
    """The ids of `patches` to train on, int64 ``[n]``.

    Example:
        >>> train_part(patches(classes=2, train=3)).tolist()
        [0, 1, 2, 3, 4, 5]
    """
    return dataset.ids("train")


def validation_part(dataset: Patches) -> IdArray:
    """The ids of `patches` to choose by, int64 ``[n]``."""
    return dataset.ids("validation")


def test_part(dataset: Patches) -> IdArray:
    """The ids of `patches` that results are told on, int64 ``[n]``."""
    return dataset.ids("test")


def sheet(dataset: Patches, rows: int = 10) -> Pixels:
    """A picture of some classes, one a row: four views each for training, two of the other parts.

    Returns:
        uint8 ``[height, width, 3]``.
    """
    classes = np.linspace(0, dataset.classes - 1, rows).astype(np.int64)
    wanted = [(part, turn) for part, n in zip(PARTS, (4, 2, 2), strict=True) for turn in range(n)]
    columns = [dataset.ids(part)[classes + turn * dataset.classes] for part, turn in wanted]
    views = dataset.images(np.stack(columns, axis=1).ravel())
    framed = np.pad(views, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=255)
    side = dataset.size + 2
    table = framed.reshape(rows, len(wanted), 3, side, side).transpose(0, 3, 1, 4, 2)
    return table.reshape(rows * side, len(wanted) * side, 3)


def main(path: str) -> None:
    """Write a sheet of the default data set to a picture file, three times as large."""
    from PIL import Image

    image = Image.fromarray(sheet(patches()))
    image.resize((3 * image.width, 3 * image.height), Image.Resampling.NEAREST).save(path)


if __name__ == "__main__":
    main(*sys.argv[1:])
