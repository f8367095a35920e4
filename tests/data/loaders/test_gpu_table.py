"""The table of transforms: its columns for each kind of crop, and the errors for what the kernel must not read."""

import numpy as np
import pytest

from cnnzoo.data.loaders.gpu_table import COLUMNS, MAX_RESIZED_SIDE, MAX_SIDE, build_table
from cnnzoo.data.transforms.augment import Augment, AugmentParams


def params_of(resize_to, crops, image_size=8, **fields):
    flips = np.arange(len(crops)) % 2 == 1
    size = image_size, image_size
    return AugmentParams(np.array(resize_to, np.int64), np.array(crops, np.int64), flips, size, **fields)


def table_of(params, sizes, starts=None, channels=3, source_bytes=10**6):
    count = len(sizes)
    starts = np.array(starts or [0] * count, np.int64)
    return build_table(
        params, starts, np.array(sizes, np.int64).reshape(-1, 2), channels, np.arange(count) + 50, source_bytes
    )


def row(table, number=0):
    return dict(zip(COLUMNS, table[number].tolist(), strict=True))


def test_table_window_is_in_the_resized_image():
    table = table_of(params_of([(10, 15)], [(-1, 4, 8, 8)]), [(20, 30)], starts=[700])
    assert table.dtype == np.int64
    assert table.flags.c_contiguous
    assert row(table) == {
        "start": 700, "row_bytes": 90, "box_height": 20, "box_width": 30, "resized_height": 10, "resized_width": 15,
        "top": -1, "left": 4, "flip": 0, "vertical_flip": 0, "transpose": 0, "erase_top": 0, "erase_left": 0,
        "erase_height": 0, "erase_width": 0, "label": 50,
    }  # fmt: skip


def test_table_other_crop_is_the_resized_box():
    params = params_of([(20, 30)] * 2, [(0, 0, 20, 30), (3, 4, 10, 8)], erase_boxes=np.array([[0] * 4, [1, 2, 3, 4]]))
    table = table_of(params, [(20, 30)] * 2, starts=[0, 600], channels=1)
    assert row(table, 1) == {
        "start": 600 + 3 * 30 + 4, "row_bytes": 30, "box_height": 10, "box_width": 8, "resized_height": 8,
        "resized_width": 8, "top": 0, "left": 0, "flip": 1, "vertical_flip": 0, "transpose": 0, "erase_top": 1,
        "erase_left": 2, "erase_height": 3, "erase_width": 4, "label": 51,
    }  # fmt: skip


@pytest.mark.parametrize("crop", ["center", "padded", "random_resized"])
def test_table_boxes_of_samples_are_in_their_images(crop):
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 60, (500, 2))
    starts = np.cumsum([0, *sizes.prod(axis=1)])
    augment = Augment(crop=crop, padding=0.5, flip=0.5, random_erase=0.5)
    params = augment.sample(0, 0, np.arange(500), sizes, 24)
    table = build_table(params, starts[:-1], sizes, 1, np.arange(500), int(starts[-1]))
    columns = dict(zip(COLUMNS, table.T, strict=True))
    first = columns["start"] - starts[:-1]
    last = first + (columns["box_height"] - 1) * columns["row_bytes"] + columns["box_width"] - 1
    assert (first >= 0).all()
    assert (last < sizes.prod(axis=1)).all()
    assert (first % columns["row_bytes"] + columns["box_width"] <= sizes[:, 1]).all()


@pytest.mark.parametrize(
    "crop", [(-1, 0, 4, 4), (0, -1, 4, 4), (17, 0, 4, 4), (0, 27, 4, 4), (0, 0, 0, 4), (0, 0, 4, 0), (0, 0, 21, 4)]
)
def test_table_crop_outside_its_image_raises(crop):
    good = (1, 1, 4, 4)
    with pytest.raises(IndexError, match=rf"crop \[{', '.join(map(str, crop))}\] is outside its image of \[20, 30\]"):
        table_of(params_of([(20, 30)] * 2, [good, crop]), [(20, 30)] * 2)


@pytest.mark.parametrize("start", [-1, 10**6 - 1799])
def test_table_image_outside_the_source_raises(start):
    with pytest.raises(IndexError, match=f"image at bytes {start} to {start + 1800} is outside the source of 1000000"):
        table_of(params_of([(20, 30)] * 2, [(0, 0, 8, 8)] * 2), [(20, 30)] * 2, starts=[0, start])


@pytest.mark.parametrize(
    ("size", "resize_to"),
    [
        ((1, MAX_SIDE + 1), (8, 8)),
        ((30_000, 30_000), (8, 8)),
        ((20, 30), (8, MAX_RESIZED_SIDE + 1)),
        ((20, 30), (0, 8)),
    ],
)
def test_table_image_beyond_the_limits_raises(size, resize_to):
    with pytest.raises(ValueError, match="too large for the GPU kernel"):
        table_of(params_of([resize_to], [(0, 0, 8, 8)]), [size], source_bytes=10**11)


def test_table_crop_of_a_resized_image_raises():
    with pytest.raises(ValueError, match="resize_to"):
        table_of(params_of([(10, 15)], [(0, 0, 4, 4)]), [(20, 30)])


@pytest.mark.parametrize(
    "fields", [{"ops": np.ones((1, 1), np.int64), "magnitudes": np.ones((1, 1))}, {"angles": np.ones(1)}]
)
def test_table_operations_raise(fields):
    params = params_of([(20, 30)], [(0, 0, 8, 8)], **fields)
    with pytest.raises(ValueError, match=f"params.{next(iter(fields))}"):
        table_of(params, [(20, 30)])


def test_table_without_images_is_empty():
    params = params_of(np.zeros((0, 2)), np.zeros((0, 4)))
    assert table_of(params, []).shape == (0, len(COLUMNS))
