"""Tests of the pictures for TensorBoard, by their pixels where these are known."""

import numpy as np
import torch

from cnnzoo.callbacks.tensorboard.drawing import (
    CORRECT_COLOR,
    MIN_WIDTH,
    WRONG_COLOR,
    draw_bars,
    draw_captioned_grid,
    draw_confusion_matrix,
    draw_filters,
)


def test_draw_captioned_grid_captions_are_below_images():
    images = torch.zeros(5, 1, 8, 8)
    images[4] = 1.0
    grid = draw_captioned_grid(images, ["a", "b", "c", "d", "e"], columns=3, side=128)
    assert grid.shape == (2 * (128 + 14), 3 * 128, 3)
    assert grid.dtype == np.uint8
    assert (grid[:128, :128] == 0).all()  # the first image, black
    assert (grid[142 : 142 + 128, 128:256] == 255).all()  # the fifth, in the second row, white
    assert (grid[128:142, :128] < 128).any()  # its caption
    assert (grid[142:, 256:] == 255).all()  # the empty tile


def test_draw_captioned_grid_keeps_the_aspect_ratio():
    grid = draw_captioned_grid(torch.zeros(2, 1, 16, 32), ["a", "b"], columns=2, side=128)
    assert grid[:64, :256].max() == 0
    assert (grid[64:78] == 255).any(axis=(1, 2)).all()
    assert len(grid) == 64 + 14


def test_draw_captioned_grid_second_line_is_red():
    grid = draw_captioned_grid(torch.zeros(1, 3, 64, 64), ["true\npred"], columns=1, side=350).astype(int)
    assert grid.shape == (350 + 27, 350, 3)
    first_line, second_line = grid[350:363], grid[363:]
    assert (np.ptp(first_line, axis=2) == 0).all()
    assert ((second_line[..., 0] - second_line[..., 1]) > 100).any()


def test_draw_captioned_grid_long_caption_is_truncated():
    captions = ["a name that is much too long for it", ""]
    grid = draw_captioned_grid(torch.zeros(2, 3, 64, 64), captions, columns=2, side=64)
    assert (grid[64:, :64] < 128).any()
    assert (grid[64:, 64:] == 255).all()


def test_draw_captioned_grid_large_images_are_smoothed():
    stripes = torch.tensor([0.0, 1.0]).repeat(100).expand(1, 1, 200, 200)
    grid = draw_captioned_grid(stripes, ["a"], columns=1, side=100)
    assert ((grid[:100, :100] > 120) & (grid[:100, :100] < 135)).all()


def test_pictures_are_padded_to_min_width():
    assert draw_captioned_grid(torch.zeros(1, 1, 8, 8), ["a"], columns=1, side=20).shape[1] == MIN_WIDTH
    assert draw_bars([("a", 0.5, "b")], "title", color=WRONG_COLOR).shape[1] == MIN_WIDTH
    assert draw_confusion_matrix(np.eye(2, dtype=np.int64), ["a", "b"]).shape[1] == MIN_WIDTH
    assert draw_filters(torch.zeros(6, 1, 5, 5)).shape[1] == MIN_WIDTH


def count_colors(picture):
    """RGB color -> number of pixels that have it."""
    colors, counts = np.unique(picture.reshape(-1, 3), axis=0, return_counts=True)
    return {tuple(map(int, color)): int(count) for color, count in zip(colors, counts, strict=True)}


def test_draw_confusion_matrix_shades_by_fraction_of_row():
    names = [f"class {n}" for n in range(3)]
    counts = count_colors(draw_confusion_matrix(np.array([[4, 0, 0], [0, 0, 4], [0, 0, 0]]), names))
    assert counts[31, 92, 156] > 400  # all correct: one cell of 24 x 24
    assert counts[200, 30, 30] > 400  # all wrong
    counts = count_colors(draw_confusion_matrix(np.array([[99, 1], [0, 100]]), ["a", "b"]))
    assert counts[250, 232, 232] > 400  # a hundredth, on the square-root scale


def test_draw_confusion_matrix_long_names_are_vertical():
    short = draw_confusion_matrix(np.eye(3, dtype=np.int64), ["a", "b", "c"])
    long = draw_confusion_matrix(np.eye(3, dtype=np.int64), ["a", "b", "a rather long name"])
    assert long.shape[0] > short.shape[0] + 50


def test_draw_bars_lengths_match_fractions():
    picture = draw_bars([("one", 1.0, "x"), ("none", 0.0, "y"), ("half", 0.5, "z")], "title", color=WRONG_COLOR)
    red = (picture == WRONG_COLOR).all(2)
    lengths = sorted({int(row.sum()) for row in red} - {0})
    assert lengths == [101, 201]
    assert not (picture == CORRECT_COLOR).all(2).any()


def test_draw_filters_rgb_is_colored_and_scaled_per_filter():
    weight = torch.zeros(4, 3, 2, 2)
    weight[0, 0] = 5.0  # red
    weight[1, :, 0, 0] = -0.001  # black in one corner
    picture = draw_filters(weight)
    side = (MIN_WIDTH // 2 - 2) // 2 * 2 + 2
    assert tuple(picture[5, 5]) == (255, 128, 128)
    assert tuple(picture[5, side + 5]) == (0, 0, 0)
    assert tuple(picture[side + 5, 5]) == (128, 128, 128)
    assert tuple(picture[5, side - 1]) == (255, 255, 255)  # between two tiles


def test_draw_filters_two_channels_are_gray():
    weight = torch.ones(1, 2, 3, 3)
    weight[0, 1] = -1.0
    weight[0, :, 0, 0] = 1.0
    picture = draw_filters(weight)
    assert tuple(picture[0, 0]) == (255, 255, 255)
    assert tuple(picture[200, 200]) == (128, 128, 128)
