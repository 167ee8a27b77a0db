"""Views of photographs: what is drawn, that all ways to read it give the same, and the parts."""

from __future__ import annotations

import pickle
from importlib.metadata import files
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest
import torch
import xxhash

from examples.vision import data, held, patches, photographs, regions, views
from pantheon import reference
from pantheon.dataset import fingerprint
from pantheon.errors import ConfigError, IdOutOfRange, StoreError
from pantheon.sampling.reading import Reader

SMALL: data.Arguments = {"classes": 4, "train": 5, "validation": 2, "test": 3}
LOW, MIDDLE, HIGH = 0.0, 0.5, 1 - 2**-53


def small(**more: int | bool | str | Path | None) -> patches.Patches:
    return data.patches(**{**SMALL, **more})  # type: ignore[arg-type]


def draws(**named: float) -> views.Doubles:
    """What decides one view: all in the middle of their ranges, but for those named."""
    names = ("cell", "right", "down", "scale", "turn", "flip", "brightness", "contrast")
    made = np.full((views.DRAWS, 1), MIDDLE)
    for name, draw in named.items():
        made[names.index(name)] = draw
    return made


# --- photographs and regions


def test_every_photograph_is_among_the_files_of_its_installed_wheel() -> None:
    wheels = {"skimage": "scikit-image", "sklearn": "scikit-learn"}
    for photograph in photographs.PHOTOGRAPHS:
        installed = {str(file) for file in files(wheels[photograph.package]) or []}
        assert f"{photograph.package}/{photograph.file}" in installed


def test_a_photograph_that_is_missing_says_what_to_install() -> None:
    with pytest.raises(ConfigError, match=r"pantheon-kd\[vision\]"):
        photographs.load(photographs.Photograph("skimage", "data/no-such.png"))
    with pytest.raises(ConfigError, match=r"nowhere is not installed.*pantheon-kd\[vision\]"):
        photographs.load(photographs.Photograph("nowhere", "data/astronaut.png"))


def test_grey_photographs_have_three_equal_channels() -> None:
    grey = photographs.load(photographs.Photograph("skimage", "data/camera.png"))
    assert grey.shape == (3, 512, 512)
    assert (grey[0] == grey[1]).all()
    assert (grey[0] == grey[2]).all()


def test_the_first_classes_are_one_region_of_each_photograph() -> None:
    first = regions.regions(len(photographs.PHOTOGRAPHS))
    assert [region.photograph for region in first] == list(range(17))


def test_regions_of_a_photograph_do_not_overlap() -> None:
    for a, b in product(regions.regions(100), repeat=2):
        if a is not b and a.photograph == b.photograph:
            assert max(abs(a.top - b.top), abs(a.left - b.left)) >= regions.TILE


def test_a_hundred_classes_come_from_all_photographs() -> None:
    each = np.bincount([region.photograph for region in regions.regions(100)])
    assert each.tolist() == [6] * 14 + [6, 6, 4]


def test_fewer_classes_are_the_first_of_more() -> None:
    assert regions.regions(100)[:7] == regions.regions(7)


def test_more_classes_than_regions_are_refused_with_the_number_there_is() -> None:
    with pytest.raises(ConfigError, match=r"found classes=5000, expected 1 to \d{3}$"):
        data.patches(classes=5000)


def test_a_context_is_its_region_with_what_lies_around_it() -> None:
    context, region = regions.contexts(2, shrink=1)[1], regions.regions(2)[1]
    photograph = photographs.load(photographs.PHOTOGRAPHS[region.photograph])
    top, left = region.top - 16, region.left - 16
    assert (context == photograph[:, top : top + 128, left : left + 128]).all()


# --- what is drawn


def test_parts_share_all_cells_of_the_square_of_shifts_and_no_cell_is_of_two() -> None:
    parts = [set(views.cells(part).tolist()) for part in views.PARTS]
    assert [len(part) for part in parts] == [40, 8, 16]
    assert set.union(*parts) == set(range(64))


@pytest.mark.parametrize(("part", "each"), [("train", 5), ("validation", 1), ("test", 2)])
def test_a_part_has_as_many_cells_in_every_row_and_column(part: views.Part, each: int) -> None:
    rows, columns = np.divmod(views.cells(part), 8)
    assert np.bincount(rows).tolist() == [each] * 8
    assert np.bincount(columns).tolist() == [each] * 8


@pytest.mark.parametrize("part", views.PARTS)
def test_shifts_stay_in_the_cells_of_their_part_and_reach_all_of_them(part: views.Part) -> None:
    x, y = views.shifts(np.random.default_rng(0).random((3, 2000)), part)
    cells = (y + 16) // 4 * 8 + (x + 16) // 4
    assert set(cells.astype(int)) == set(views.cells(part).tolist())


def test_no_view_reaches_beyond_what_is_kept_around_its_region() -> None:
    names = ("cell", "right", "down", "scale", "turn", "flip")
    for ends in product((LOW, HIGH), repeat=len(names)):
        where = views.places(draws(**dict(zip(names, ends, strict=True))), "train", 64)
        assert where.min() > 0.5
        assert where.max() < 127.5


def test_seed_part_index_and_view_each_change_what_is_drawn() -> None:
    made = [
        views.words(*key, size=8).tobytes()
        for key in [
            (0, "train", 0, 0),
            (1, "train", 0, 0),
            (0, "test", 0, 0),
            (0, "train", 1, 0),
            (0, "train", 0, 1),
        ]
    ]
    assert len(set(made)) == len(made)


def test_noise_has_mean_0_and_deviation_1() -> None:
    noise = views.bell(np.random.Philox(1).random_raw(100_000).reshape(1, -1))
    assert abs(float(noise.mean())) < 0.01
    assert abs(float(noise.std()) - 1) < 0.01


# --- what is made of it

STILL = views.Ranges(shift=0, scale=(1.0, 1.0), turn=0.0, flip=0.0)


def context() -> torch.Tensor:
    return torch.from_numpy(regions.contexts(1, shrink=1)).float()


def test_a_view_that_is_not_moved_is_the_middle_of_its_region() -> None:
    made = views.sampled(context(), views.places(draws(), "train", 64, STILL))
    assert (made == context()[..., 32:96, 32:96].numpy()).all()


def test_a_mirrored_view_is_read_from_right_to_left() -> None:
    mirrored = views.Ranges(shift=0, scale=(1.0, 1.0), turn=0.0, flip=1.0)
    made = views.sampled(context(), views.places(draws(), "train", 64, mirrored))
    assert (made == context()[..., 32:96, 32:96].numpy()[..., ::-1]).all()


@pytest.mark.parametrize(("turn", "quarters"), [(LOW, -1), (MIDDLE, 0), (1.0, 1)])
def test_a_turned_view_is_turned_about_its_middle(turn: float, quarters: int) -> None:
    """The tangent of half of 90 degrees is 1."""
    turned = views.Ranges(shift=0, scale=(1.0, 1.0), turn=1.0, flip=0.0)
    made = views.sampled(context(), views.places(draws(turn=turn), "train", 64, turned))
    still = context()[..., 32:96, 32:96].numpy()
    assert (made == np.rot90(still, quarters, axes=(-2, -1))).all()


@pytest.mark.parametrize("side", [32, 64, 128])
def test_reading_between_pixels_is_exact(side: int) -> None:
    """On a slope of 1 per pixel a value is its place, to the 256th of a pixel."""
    slope = torch.arange(side).float().expand(1, 3, side, side)
    pixel = np.array([0.0, 3.25, 7 + 1 / 256, side - 2 + 255 / 256, side - 1])
    where = np.stack(np.broadcast_arrays((pixel + 0.5) * (128 / side), 64.0), axis=-1)
    made = views.sampled(slope, where.reshape(1, 1, 5, 2))
    assert made[0, 0, 0].tolist() == pixel.tolist()


def test_colours_change_by_contrast_then_brightness_then_gain() -> None:
    ranges = views.Ranges(contrast=(0.5, 0.5), brightness=30.0, gain=(1.1, 1.1), noise=(0.0, 0.0))
    values = np.full((1, 3, 2, 2), 28, np.float32)
    made = views.coloured(values, draws(brightness=LOW), np.zeros((1, 6), np.uint64), ranges)
    assert made.ravel().tolist() == [53] * 12  # ((28 - 128) / 2 + 128 - 30) * 1.1 = 52.8


def test_colours_end_at_0_and_255() -> None:
    ranges = views.Ranges(contrast=(9.0, 9.0), brightness=0.0, gain=(1.0, 1.0), noise=(0.0, 0.0))
    values = np.array([0, 255, 128], np.float32).repeat(4).reshape(1, 3, 2, 2)
    made = views.coloured(values, draws(), np.zeros((1, 6), np.uint64), ranges)
    assert made[0, :, 0, 0].tolist() == [0, 255, 128]


@pytest.mark.parametrize("size", [32, 48])
def test_a_view_has_the_same_bytes_alone_in_a_batch_and_from_what_is_kept(
    size: int, tmp_path: Path
) -> None:
    ids = np.random.default_rng(0).permutation(len(small()))
    batch = small(size=size).images(ids)
    alone = [small(size=size).images([id])[0] for id in ids.tolist()]
    kept = small(size=size, hold=True).images(ids)
    written = small(size=size, cache=tmp_path).images(ids)
    again = small(size=size, cache=tmp_path).images(ids)
    for other in (np.stack(alone), kept, written, again):
        assert other.tobytes() == batch.tobytes()


def test_views_are_what_they_always_were() -> None:
    """Of the photographs that are PNG files, which every decoder decodes alike."""
    made = small().images([0, 1, 2, 21, 30], [0, 0, 7, 0, 2**40])
    assert xxhash.xxh3_64_hexdigest(made.tobytes()) == "aed768f0b030d7a0"


# --- ids and parts


def test_the_default_parts_are_large_enough_to_tell_small_differences() -> None:
    whole = data.patches()
    ids = [part(whole) for part in (data.train_part, data.validation_part, data.test_part)]
    assert [len(part) for part in ids] == [20_000, 5_000, 40_000]
    assert np.concatenate(ids).tolist() == list(range(len(data.patches())))


def test_classes_take_turns_in_every_part() -> None:
    dataset = small()
    for part in views.PARTS:
        ids = dataset.ids(part)
        assert ids.dtype == np.int64
        assert dataset.labels(ids).tolist() == [i % 4 for i in range(len(ids))]


def test_the_parts_follow_one_another() -> None:
    ids = [part(small()) for part in (data.train_part, data.validation_part, data.test_part)]
    assert [part.tolist() for part in ids] == [
        list(range(20)),
        list(range(20, 28)),
        list(range(28, 40)),
    ]


def test_test_views_stay_the_same_when_there_are_more_to_train_on() -> None:
    few, many = small(), small(train=9)
    assert (few.images(few.ids("test")) == many.images(many.ids("test"))).all()


def test_a_sample_is_a_normalised_image_and_its_class() -> None:
    image, label = small()[6]
    assert image.dtype == torch.float32
    assert image.shape == (3, 32, 32)
    assert label == 2
    assert type(label) is int


def test_view_0_is_what_a_sample_is_without_a_view() -> None:
    dataset = small()
    for id in (3, 21, 39):
        assert torch.equal(dataset.get(id, 0)[0], dataset[id][0])


def test_another_view_is_another_picture_of_the_same_class() -> None:
    dataset = small(hold=True)
    made = [dataset.get(21, view) for view in range(4)]
    assert {label for _, label in made} == {1}
    assert all(not torch.equal(a, b) for (a, _), (b, _) in pairwise(made))


def test_other_views_of_a_sample_are_drawn_from_the_cells_of_its_own_part(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn = []

    def render(contexts: torch.Tensor, seed: int, part: views.Part, *rest: list[int]) -> int:
        drawn.append((part, *rest))
        return 0

    monkeypatch.setattr(patches, "render", render)
    small().images([39, 0, 25, 2], [7, 5, 6, 5])
    assert drawn == [
        ("train", [0, 2], [5, 5], 32),
        ("validation", [5], [6], 32),
        ("test", [11], [7], 32),
    ]


def test_a_batch_of_several_parts_comes_in_the_order_asked_for() -> None:
    dataset = small()
    ids = [39, 0, 25, 1, 38]
    for (image, label), id in zip(dataset.__getitems__(ids), ids, strict=True):
        assert torch.equal(image, dataset[id][0])
        assert label == dataset[id][1]


@pytest.mark.parametrize("bad", [-1, 40])
def test_an_id_that_is_in_no_part_is_named(bad: int) -> None:
    with pytest.raises(IdOutOfRange, match=rf"{bad} is not in 0 to 39"):
        small().images([0, bad])


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"classes": 0}, "classes=0"),
        ({"size": 33}, "size is 33"),
        ({"size": 6}, "size is 6"),
        ({"size": 130}, "size is 130"),
        ({"train": -1}, "train=-1"),
        ({"train": 0, "validation": 0, "test": 0}, "test=0"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_arguments_that_cannot_be_are_named(wrong: dict[str, int], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        small(**wrong)


def test_training_views_are_normalised() -> None:
    dataset = data.patches()
    images = patches.normalised(dataset.images(np.arange(0, 20_000, 53)))
    assert images.mean(dim=(0, 2, 3)).abs().max() < 0.1
    assert (images.std(dim=(0, 2, 3)) - 1).abs().max() < 0.1


# --- how the project reads it


def test_configurations_can_name_it() -> None:
    made = reference.call("examples.vision.data:patches", dict(SMALL))
    assert len(made) == 40
    assert len(reference.resolve("examples.vision.data:test_part")(made)) == 12


def test_teachers_read_batches_with_and_without_views() -> None:
    dataset = small()
    ids, seen = np.array([39, 0, 25]), np.array([2, 5, 0])
    for batch, many in [
        (Reader(dataset).batch(ids, None), np.zeros(3, int)),
        (Reader(dataset).batch(ids, seen), seen),
    ]:
        assert torch.equal(batch, patches.normalised(dataset.images(ids, many)))


def test_two_sides_that_make_it_agree_on_its_fingerprint() -> None:
    assert fingerprint(small()) == fingerprint(small(hold=True))
    assert fingerprint(small()) != fingerprint(small(seed=1))


def test_workers_are_handed_the_recipe_and_not_the_pictures() -> None:
    dataset = small(hold=True)
    dataset.base("train")
    message = pickle.dumps(dataset)
    assert len(message) < 500
    assert (pickle.loads(message).images([3, 30]) == dataset.images([3, 30])).all()  # noqa: S301


# --- what is kept


def test_a_part_is_rendered_once_for_all_who_share_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = small(cache=tmp_path).base("test")
    monkeypatch.setattr(patches, "render", None)
    assert (small(cache=tmp_path).base("test") == first).all()


def test_a_folder_holds_one_file_for_each_part_that_was_read(tmp_path: Path) -> None:
    small(cache=tmp_path).base("train")
    (file,) = tmp_path.iterdir()
    assert file.name.startswith("train-")
    assert np.load(file, allow_pickle=False).shape == (20, 3, 32, 32)


@pytest.mark.parametrize("other", [{"seed": 1}, {"size": 48}, {"classes": 3}, {"train": 6}])
def test_other_views_are_kept_in_another_file(other: dict[str, int], tmp_path: Path) -> None:
    small(cache=tmp_path).base("train")
    small(cache=tmp_path, **other).base("train")
    assert len(list(tmp_path.iterdir())) == 2


def test_one_sample_alone_renders_no_whole_part(tmp_path: Path) -> None:
    small(cache=tmp_path)[0]
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_cut_short_is_named_with_what_to_do(tmp_path: Path) -> None:
    small(cache=tmp_path).base("train")
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(StoreError, match=rf"{file.name} cannot be read .* delete it"):
        small(cache=tmp_path).base("train")


def test_a_file_of_another_shape_is_named_with_both(tmp_path: Path) -> None:
    path = tmp_path / "part.npy"
    np.save(path, np.zeros((2, 3), np.uint8))
    with pytest.raises(StoreError, match=r"uint8 \(2, 3\); expected uint8 \(4,\)"):
        held.held(path, (4,), lambda array: array.fill(0))


def test_a_file_with_objects_in_it_is_not_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "part.npy"
    np.save(path, np.array([print, 1], dtype=object), allow_pickle=True)
    with pytest.raises(StoreError, match="cannot be read"):
        held.held(path, (2,), lambda array: array.fill(0))


def test_a_rendering_that_fails_leaves_no_file(tmp_path: Path) -> None:
    def fail(array: photographs.Pixels) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        held.held(tmp_path / "part.npy", (4,), fail)
    assert list(tmp_path.iterdir()) == []


def test_what_is_kept_cannot_be_written_to(tmp_path: Path) -> None:
    for dataset in (small(hold=True), small(cache=tmp_path)):
        with pytest.raises(ValueError, match="read-only"):
            dataset.base("train")[0] = 0


def test_the_sheet_is_a_picture_of_ten_classes_by_eight_views(tmp_path: Path) -> None:
    from PIL import Image

    data.main(str(tmp_path / "sheet.png"))
    with Image.open(tmp_path / "sheet.png") as image:
        assert image.size == (3 * 8 * 34, 3 * 10 * 34)
