"""NumPy files, TIFF of many channels, and 16-bit TIFF and PNG are decoded as they are; wrong ones raise."""

import io
import re
import sys

import numpy as np
import pytest
import tifffile
from PIL import Image

from cnnzoo.data.transforms.decode import check_header, decode_bytes, decode_file, error_reason, header_size
from cnnzoo.data.transforms.pixel_format import convert_channels
from tests.helpers.arrays import make_array, save_array

SIZE = (12, 20)


@pytest.mark.parametrize("extension", [".npy", ".tif"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 13])
@pytest.mark.parametrize(("bits", "dtype"), [(8, np.uint8), (16, np.uint16)])
def test_decode_keeps_channels_and_bits(tmp_path, extension, channels, bits, dtype):
    pixels = make_array(extension, *SIZE, channels, dtype)
    path = save_array(tmp_path / f"a{extension}", pixels)
    decoded = decode_file(str(path), channels, bits)
    assert decoded.dtype == dtype
    assert np.array_equal(decoded, pixels)
    assert check_header(path.read_bytes(), channels, bits) == SIZE


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((5, *SIZE), {"planarconfig": "separate"}),
        ((5, *SIZE), {"planarconfig": None}),  # pages
        ((*SIZE, 5), {"compression": "lzw"}),
        ((*SIZE, 5), {"compression": "deflate", "predictor": True}),
        ((*SIZE, 5), {"bigtiff": True}),
        ((*SIZE, 5), {"byteorder": ">"}),
    ],
)
def test_decode_tiff_layouts(tmp_path, shape, options):
    pixels = make_array("layout", *SIZE, 5)
    stored = pixels if shape[-1] == 5 else pixels.transpose(2, 0, 1)
    path = save_array(tmp_path / "a.tif", stored, **options)
    assert np.array_equal(decode_file(str(path), 5, 16), pixels)
    assert check_header(path.read_bytes(), 5, 16) == SIZE
    assert header_size(path.read_bytes()) == SIZE


def test_decode_tiff_orientation_and_inversion(tmp_path):
    pixels = make_array("orientation", *SIZE, 1)
    path = save_array(tmp_path / "a.tif", pixels[..., 0], photometric="miniswhite", extratags=[(274, "H", 1, 6, True)])
    assert np.array_equal(decode_file(str(path), 1, 16), 65535 - np.rot90(pixels, -1))
    assert check_header(path.read_bytes(), 1, 16) == SIZE[::-1]


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<u2", ">u2"])
def test_decode_npy_memory_orders(dtype, order):
    pixels = make_array("order", *SIZE, 4)
    file = io.BytesIO()
    np.save(file, np.asarray(pixels.astype(dtype), order=order))
    decoded = decode_bytes(file.getvalue(), 4, 16)
    assert decoded.dtype == np.uint16
    assert decoded.dtype.isnative
    assert np.array_equal(decoded, pixels)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_decode_png_with_16_bits(tmp_path, channels):
    pixels = make_array("png", *SIZE, channels)
    path = save_array(tmp_path / "a.png", pixels)
    assert np.array_equal(decode_file(str(path), channels, 16), pixels)
    assert check_header(path.read_bytes(), channels, 16) == SIZE
    reduced = decode_file(str(path), channels, 8)  # by default, and as before
    assert reduced.dtype == np.uint8
    assert np.abs(reduced.astype(int) - pixels // 257).max() <= 1


def test_decode_png_alpha_with_16_bits_is_blended(tmp_path):
    pixels = make_array("alpha", *SIZE, 4)
    path = save_array(tmp_path / "a.png", pixels)
    decoded, expected = decode_file(str(path), 3, 16), decode_file(str(path), 3, 8)
    assert np.abs(decoded / 257 - expected).max() < 2


def test_decode_8_bits_as_16_bits(tmp_path):
    pixels = make_array("wide", *SIZE, 3, np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert np.array_equal(decode_file(str(tmp_path / "a.png"), 3, 16), pixels.astype(np.uint16) * 257)
    Image.fromarray(pixels).save(tmp_path / "a.jpg")
    jpeg = decode_file(str(tmp_path / "a.jpg"), 3)
    assert np.array_equal(decode_file(str(tmp_path / "a.jpg"), 3, 16), jpeg.astype(np.uint16) * 257)


def test_decode_grey_and_color_are_converted(tmp_path):
    color = make_array("color", *SIZE, 3)
    path = save_array(tmp_path / "a.npy", color)
    grey = decode_file(str(path), 1, 16)
    assert np.abs(grey / 257 - convert_channels((color // 257).astype(np.uint8), 1)).max() < 1.5
    path = save_array(tmp_path / "b.npy", grey[..., 0])
    assert np.array_equal(decode_file(str(path), 3, 16), np.repeat(grey, 3, -1))


def test_decode_rgba_png_has_four_channels(tmp_path):
    pixels = make_array("rgba", *SIZE, 4, np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert np.array_equal(decode_file(str(tmp_path / "a.png"), 4), pixels)
    assert check_header((tmp_path / "a.png").read_bytes(), 4) == SIZE


def npy(array, **options):
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def tiff(array, **options):
    file = io.BytesIO()
    tifffile.imwrite(file, array, photometric="minisblack", planarconfig="contig", **options)
    return file.getvalue()


def png(channels):
    file = io.BytesIO()
    Image.fromarray(make_array("png", *SIZE, channels, np.uint8)).save(file, "png")
    return file.getvalue()


ARRAY = make_array("wrong", *SIZE, 4)
EIGHT = ARRAY.astype(np.uint8)
WRONG_FILES = {
    "channels of npy": (npy(EIGHT), 3, 8, "has 4 channels, expected 3 channels; type data.channels=4"),
    "channels of tiff": (tiff(EIGHT), 3, 8, "has 4 channels, expected 3 channels; type data.channels=4"),
    "channels of png": (png(3), 5, 8, "has 3 channels, expected 5 channels; type data.channels=3"),
    "bits": (npy(ARRAY), 4, 8, "has 4 channels with 16 bits, expected 4 channels; type data.bits=16"),
    "both": (tiff(ARRAY), 1, 8, "expected 1 channel; type data.channels=4 data.bits=16"),
    "float": (npy(ARRAY.astype(np.float32)), 4, 16, "its values are float32, expected uint8 or uint16"),
    "float tiff": (tiff(ARRAY.astype(np.float32)), 4, 16, "its values are float32, expected uint8 or uint16"),
    "signed": (npy(ARRAY.astype(np.int16)), 4, 16, "its values are int16"),
    "objects": (npy(np.array([[None]]), allow_pickle=True), 1, 8, "its values are object"),
    "dimensions": (npy(ARRAY[None]), 4, 16, r"its shape is (1, 12, 20, 4), expected (height, width)"),
    "channels first": (npy(ARRAY.transpose(2, 0, 1)), 4, 16, "with the channels first"),
    "empty": (npy(ARRAY[:0]), 4, 16, "its shape is (0, 20, 4)"),
    "cut npy": (npy(ARRAY)[:-1], 4, 16, "it is cut off"),
    "long npy": (npy(ARRAY) + b"0", 4, 16, "it is cut off, or does not have the shape"),
    "cut tiff": (tiff(ARRAY)[:-1], 4, 16, "it is cut off"),
    "cut compressed tiff": (tiff(ARRAY, compression="lzw")[:-1], 4, 16, "it is cut off"),
    "header of npy": (npy(ARRAY)[:20], 4, 16, "the header of this NumPy file is damaged"),
    "header of tiff": (tiff(ARRAY)[:6], 4, 16, ""),
    "long side": (npy(np.zeros((1, 2000, 4), np.uint8)), 4, 8, "one side is more than 1,000 times the other"),
}


@pytest.mark.parametrize("case", WRONG_FILES)
def test_wrong_file_raises_with_the_reason(case):
    data, channels, bits, reason = WRONG_FILES[case]
    with pytest.raises(Exception) as error:  # noqa: PT011 - of many types, as loaders expect
        check_header(data, channels, bits)
    assert reason in error_reason(error.value)
    if case != "long side":
        with pytest.raises(type(error.value), match=re.escape(str(error.value))):
            decode_bytes(data, channels, bits)


def test_npy_with_code_is_not_unpickled(tmp_path):
    class Harmful:
        def __reduce__(self):
            return open, (str(tmp_path / "created"), "w")

    with pytest.raises(ValueError, match="its values are object"):
        decode_bytes(npy(np.array([[Harmful()]]), allow_pickle=True), 1)
    assert not (tmp_path / "created").exists()


def test_missing_tifffile_names_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(ValueError, match=r'pip install "cnnzoo\[tiff\]"'):
        decode_bytes(tiff(ARRAY), 4, 16)
