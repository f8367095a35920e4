"""The kernel in Triton's interpreter equals torchvision and the CPU path, and compiles for GPUs without having one."""

import re
import subprocess
from dataclasses import replace

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as tv

from cnnzoo.data.loaders import gpu_kernel
from cnnzoo.data.loaders.gpu_kernel import TILE, kernel_problem
from cnnzoo.data.loaders.gpu_table import COLUMNS, build_table
from cnnzoo.data.transforms.augment import Augment, AugmentParams
from cnnzoo.data.transforms.geometry import augment_images
from tests.helpers.gpu_kernel import needs_interpreter, transform_by_interpolate, transform_or_skip
from tests.helpers.images import make_pixels

triton = pytest.importorskip("triton")  # builds of torch without a GPU come without it
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
MARGIN = 50  # pixels: tv.crop fails if the crop is completely outside the image
SEED = 1  # of samples in which some images are flipped, some are erased, and some are neither
CROPS = {
    "eval": Augment(eval_resize=1.15),
    "padded": Augment(crop="padded", padding=0.25, flip=0.5, random_erase=0.5, mean=(0.1, 0.5, 0.9)),
    "random_resized": Augment(crop="random_resized", flip=0.5, random_erase=0.5),
}


class Images:
    """Images of these sizes, one after the other in a source, after some other bytes."""

    def __init__(self, sizes, channels=3):
        self.sizes, self.channels = np.array(sizes, np.int64), channels
        self.pixels = [make_pixels(f"{n} {size}", *size, channels) for n, size in enumerate(sizes)]
        self.source = torch.from_numpy(np.concatenate([np.full(5, 9, np.uint8), *(p.reshape(-1) for p in self.pixels)]))
        self.starts = 5 + np.cumsum([0, *(p.size for p in self.pixels[:-1])])

    def sample(self, crop, image_size):
        if crop == "eval":
            return CROPS[crop].eval_params(self.sizes, image_size)
        augment = CROPS[crop]
        augment = replace(augment, mean=augment.mean and augment.mean[: self.channels])
        return augment.sample(SEED, 0, np.arange(len(self.sizes)), self.sizes, image_size)

    def table(self, params):
        labels = np.arange(len(self.sizes))
        rows = build_table(params, self.starts, self.sizes, self.channels, labels, len(self.source))
        return torch.from_numpy(rows)

    def by_kernel(self, params, function=transform_or_skip):
        out = torch.full((len(self.sizes), *params.image_size, self.channels), 77, dtype=torch.uint8)
        function(self.source, self.table(params), out, params.erase_fill)
        return out

    def by_torchvision(self, params):
        images = []
        for n, pixels in enumerate(self.pixels):
            image = torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
            image = tv.resize(image, params.resize_to[n].tolist(), antialias=True)
            top, left, height, width = params.crops[n].tolist()
            image = tv.crop(tv.pad(image, [MARGIN]), top + MARGIN, left + MARGIN, height, width)
            image = tv.resize(image, list(params.image_size), antialias=True)
            image = tv.horizontal_flip(image) if params.flips[n] else image
            if params.erase_boxes is not None:
                fill = torch.tensor(params.erase_fill, dtype=torch.uint8)[:, None, None]
                image = tv.erase(image, *params.erase_boxes[n].tolist(), fill)
            images.append(image.permute(1, 2, 0))
        return torch.stack(images)


def window(resize_to, top, left, side):
    """Parameters of one image: a window of the resized image."""
    return AugmentParams(np.array([resize_to]), np.array([[top, left, side, side]]), np.array([False]), (side, side))


def assert_equals_torchvision(images, params):
    result = images.by_kernel(params)
    expected = images.by_torchvision(params)
    assert (result.int() - expected.int()).abs().max() <= 1
    assert (result != expected).float().mean() < 0.005
    return result


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("crop", CROPS)
def test_kernel_equals_torchvision(crop, channels):
    images = Images([(24, 24), (31, 19), (9, 22), (5, 7), (21, 21)], channels)
    params = images.sample(crop, 15)
    if crop != "eval":
        assert 0 < params.flips.sum() < 5
        assert 0 < (params.erase_boxes[:, 2] > 0).sum() < 5
    result = assert_equals_torchvision(images, params)
    on_cpu = augment_images(images.pixels, params, channels).permute(0, 2, 3, 1)
    assert (result.int() - on_cpu.int()).abs().max() <= 1


@pytest.mark.parametrize(("crop", "fit"), [("random_resized", "crop"), ("padded", "pad")])
def test_kernel_rectangles_equal_torchvision(crop, fit, monkeypatch):
    monkeypatch.setitem(CROPS, crop, replace(CROPS[crop], fit=fit))
    images = Images([(31, 10), (5, 20)])
    assert_equals_torchvision(images, images.sample(crop, (9, 15)))


@pytest.mark.parametrize("size", [(1, 40), (40, 1), (1, 1), (2, 300)])
def test_kernel_extreme_aspect_equals_torchvision(size):
    images = Images([size])
    assert_equals_torchvision(images, images.sample("eval", 14))


def test_kernel_shrinks_tenfold_as_torchvision():
    images = Images([(93, 9), (9, 101)], channels=1)
    whole = np.pad(images.sizes, ((0, 0), (2, 0)))
    assert_equals_torchvision(images, AugmentParams(images.sizes, whole, np.array([False, True]), (8, 8)))


def test_kernel_far_right_in_wide_image_is_exact():
    """The position of a pixel there has more digits than a float32."""
    images = Images([(1, 50_001)], channels=1)
    assert_equals_torchvision(images, window((9, 450_001), 0, 450_001 - 12, 9))


@pytest.mark.parametrize(("top", "left"), [(-4, 3), (2, -5), (13, 12), (-20, 0), (0, 40)])
def test_kernel_window_outside_is_black(top, left):
    images = Images([(30, 28)])
    result = assert_equals_torchvision(images, window((17, 16), top, left, 9))
    y, x = np.mgrid[top : top + 9, left : left + 9]
    outside = (y < 0) | (y >= 17) | (x < 0) | (x >= 16)
    assert outside.any()
    assert (result[0][torch.from_numpy(outside)] == 0).all()


def test_kernel_image_of_the_right_size_is_copied():
    images = Images([(12, 12)])
    assert torch.equal(images.by_kernel(window((12, 12), 0, 0, 12))[0], torch.from_numpy(images.pixels[0]))


@needs_interpreter
def test_kernel_tiles_equal_one_tile():
    images = Images([(15, 18)] * 2, channels=1)
    params = images.sample("random_resized", (10, 14))
    by_tiles = torch.zeros(2, 10, 14, 1, dtype=torch.uint8)
    constants = gpu_kernel._constants(10, 14, 1, (8, 8))
    assert constants["TILES"] == 4
    kernel = gpu_kernel._interpreted()[(2 * 4,)]
    kernel(images.source, images.table(params), by_tiles, *[params.erase_fill[0]] * 3, **constants)
    assert torch.equal(by_tiles, images.by_kernel(params))


def test_kernel_reads_beyond_four_gigabytes():
    start = 2**32 + 12_345
    source = torch.empty(start + 10_000, dtype=torch.uint8)  # its memory is not used before it is written to
    images = Images([(11, 17)])
    source[start : start + images.pixels[0].size] = torch.from_numpy(images.pixels[0].reshape(-1))
    params = images.sample("eval", 9)
    expected = images.by_kernel(params)
    images.source, images.starts = source, np.array([start])
    assert torch.equal(images.by_kernel(params), expected)


def test_kernel_without_images_does_nothing():
    empty = torch.empty(0, 8, 8, 3, dtype=torch.uint8)
    transform_or_skip(torch.zeros(4, dtype=torch.uint8), torch.empty(0, len(COLUMNS), dtype=torch.int64), empty, (0,))


@pytest.mark.parametrize("crop", CROPS)
def test_transform_by_interpolate_equals_torchvision(crop):
    """The function that stands for the kernel in other tests."""
    images = Images([(50, 40), (31, 90), (9, 22), (5, 7)] * 4)
    params = images.sample(crop, 27)
    result, expected = images.by_kernel(params, transform_by_interpolate), images.by_torchvision(params)
    assert (result.int() - expected.int()).abs().max() <= 1
    assert (result != expected).float().mean() < 0.005


@pytest.mark.parametrize("capability", [80, 90, 100])
def test_kernel_compiles_without_spills(capability, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    constants = gpu_kernel._constants(224, 224, 3, TILE)
    signature = {"source": "*u8", "table": "*i64", "out": "*u8", "fill_0": "i32", "fill_1": "i32", "fill_2": "i32"}
    source = triton.compiler.ASTSource(
        gpu_kernel._compiled(), {**signature, **dict.fromkeys(constants, "constexpr")}, constants
    )
    target = triton.backends.compiler.GPUTarget("cuda", capability, 32)
    kernel = triton.compile(source, target=target, options=gpu_kernel.COMPILE_OPTIONS)
    binary = tmp_path / "kernel.cubin"
    binary.write_bytes(kernel.asm["cubin"])
    command = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", str(binary)]
    usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    used = {name: int(count) for name, count in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
    assert used["STACK"] == used["LOCAL"] == 0
    assert used["REG"] <= 64


@needs_gpu
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("crop", CROPS)
@pytest.mark.parametrize("image_size", [(224, 224), (160, 250)])
def test_kernel_on_gpu_equals_torchvision(crop, channels, image_size):
    rng = np.random.default_rng(0)
    images = Images([*rng.integers(150, 500, (24, 2)).tolist(), (1, 900), (900, 2), (16, 16), (1500, 1800)], channels)
    params = images.sample(crop, image_size)
    expected = images.by_torchvision(params)
    images.source = images.source.cuda()
    out = torch.zeros(len(expected), *image_size, channels, dtype=torch.uint8, device="cuda")
    transform_or_skip(images.source, images.table(params).cuda(), out, params.erase_fill)
    assert (out.cpu().int() - expected.int()).abs().max() <= 1
    assert (out.cpu() != expected).float().mean() < 0.005


def test_kernel_problem_on_cpu_without_interpreter(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert "TRITON_INTERPRET=1" in kernel_problem(torch.device("cpu"))
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert kernel_problem(torch.device("cpu")) is None


@pytest.mark.parametrize(("capability", "problem"), [((7, 0), "7.0 of the GPU is below 7.5"), ((7, 5), None)])
def test_kernel_problem_depends_on_capability(capability, problem, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    result = kernel_problem(torch.device("cuda:0"))
    assert result is None if problem is None else problem in result


def test_kernel_problem_without_triton(monkeypatch):
    monkeypatch.setattr(gpu_kernel, "tl", None)
    assert kernel_problem(torch.device("cuda:0")) == "Triton is not installed"


def test_kernel_problem_on_other_devices():
    assert "meta" in kernel_problem(torch.device("meta"))
