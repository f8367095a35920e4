"""Image files of all supported formats are decoded to the expected pixels."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from cnnzoo.data.transforms.decode import check_header, decode_bytes, decode_file, error_reason, verify_jpeg
from tests.helpers.images import make_pixels

GRAY = make_pixels("grey", 10, 14, 1)[..., 0]
COLOR = make_pixels("colour", 10, 14)


@pytest.fixture
def save_image(tmp_path):
    """A function that saves a Pillow image and returns its path."""

    def save_image(image, extension="png", **options):
        path = tmp_path / f"image.{extension}"
        image.save(path, **options)
        return str(path)

    return save_image


def test_decode_png_color(save_image):
    path = save_image(Image.fromarray(COLOR))
    assert np.array_equal(decode_file(path, 3), COLOR)
    assert np.array_equal(decode_file(path, 1)[..., 0], np.asarray(Image.fromarray(COLOR).convert("L")))


def test_decode_png_gray(save_image):
    path = save_image(Image.fromarray(GRAY))
    assert np.array_equal(decode_file(path, 1), GRAY[..., None])
    assert np.array_equal(decode_file(path, 3), np.stack([GRAY] * 3, -1))


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"subsampling": 1, "quality": 40}])
@pytest.mark.parametrize("pixels", [COLOR, GRAY], ids=["color", "gray"])
def test_decode_jpeg_equals_pillow(save_image, options, pixels):
    path = save_image(Image.fromarray(pixels), "jpg", **options)
    for channels, mode in ((3, "RGB"), (1, "L")):
        with Image.open(path) as image:
            expected = np.asarray(image.convert("RGB").convert(mode)).reshape(10, 14, channels).astype(int)
        assert np.abs(decode_file(path, channels) - expected).max() <= 1


@pytest.mark.parametrize(("extension", "options"), [("bmp", {}), ("webp", {"lossless": True}), ("ppm", {})])
def test_decode_lossless_formats_are_exact(save_image, extension, options):
    for pixels in (COLOR, np.stack([GRAY] * 3, -1)):
        assert np.array_equal(decode_file(save_image(Image.fromarray(pixels), extension, **options), 3), pixels)


def test_decode_bmp_palette_and_gray(save_image):
    palette = Image.fromarray(COLOR).quantize(16)
    assert np.array_equal(decode_file(save_image(palette, "bmp"), 3), np.asarray(palette.convert("RGB")))
    assert np.array_equal(decode_file(save_image(Image.fromarray(GRAY), "bmp"), 1)[..., 0], GRAY)


@pytest.mark.parametrize("extension", ["png", "tif"])
def test_decode_16_bit_gray_is_scaled(save_image, extension):
    path = save_image(Image.fromarray(GRAY.astype(np.uint16) * 257), extension)
    assert np.array_equal(decode_file(path, 1)[..., 0], GRAY)
    assert np.array_equal(decode_file(path, 3)[..., 2], GRAY)


def test_decode_16_bit_gray_is_rounded(save_image):
    path = save_image(Image.fromarray(np.array([[0, 128, 129, 40000, 65535]], np.uint16)))
    assert decode_file(path, 1).ravel().tolist() == [0, 0, 1, 156, 255]


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_decode_png_16_bits_per_channel(tmp_path, channels):
    """Gray, gray with alpha, color, and color with alpha. Pillow writes only the first."""
    values = make_pixels("deep", 10, 14, channels).astype(np.uint16) * 257
    if channels in (2, 4):
        values[..., -1] = 65535
    path = tmp_path / "deep.png"
    path.write_bytes(encode_png(values, {1: 0, 2: 4, 3: 2, 4: 6}[channels]))
    expected = (values // 257).astype(np.uint8)[..., : 3 if channels > 2 else 1]
    assert np.array_equal(decode_file(str(path), 3), np.broadcast_to(expected, (10, 14, 3)))


def test_decode_png_palette(save_image):
    image = Image.fromarray(COLOR).quantize(16)
    assert np.array_equal(decode_file(save_image(image), 3), np.asarray(image.convert("RGB")))


def test_decode_png_1_bit(save_image):
    path = save_image(Image.fromarray(GRAY > 127))
    assert np.array_equal(decode_file(path, 1)[..., 0], np.where(GRAY > 127, 255, 0))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_decode_png_transparent_becomes_white(save_image, mode):
    alpha = np.full((10, 14), 255, np.uint8)
    alpha[:, 7:] = 0
    black = np.zeros((10, 14, 3), np.uint8)
    image = Image.fromarray(np.dstack([black, alpha])).convert(mode)
    if mode == "P":
        image = Image.fromarray((alpha == 0).astype(np.uint8)).convert("P")
        image.putpalette([0] * 6)
        path = save_image(image, transparency=1)
    else:
        path = save_image(image)
    pixels = decode_file(path, 3)
    assert (pixels[:, :7] == 0).all()
    assert (pixels[:, 7:] == 255).all()


def test_decode_jpeg_cmyk(save_image):
    image = Image.new("RGB", (16, 16), (200, 60, 20))
    path = save_image(image.convert("CMYK"), "jpg", quality=100)
    assert np.abs(decode_file(path, 3).astype(int) - [200, 60, 20]).max() <= 6


def test_decode_jpeg_ycck(save_image):
    """Photoshop's CMYK: luminance, chroma and black, all inverted.

    Pillow cannot write it, so Adobe's marker is edited.
    """
    ycbcr = Image.new("RGB", (16, 16), (255 - 200, 255 - 60, 255 - 20)).convert("YCbCr").getpixel((0, 0))
    path = save_image(Image.new("CMYK", (16, 16), (*(255 - value for value in ycbcr), 0)), "jpg", quality=100)
    with open(path, "r+b") as file:
        file.seek(file.read().index(b"Adobe") + 11)
        assert file.read(1) == b"\0"
        file.seek(-1, 1)
        file.write(b"\2")
    assert np.abs(decode_file(path, 3).astype(int) - [200, 60, 20]).max() <= 6


@pytest.mark.parametrize(("extension", "options"), [("gif", {}), ("webp", {"lossless": True}), ("png", {})])
def test_decode_animation_gives_first_frame(save_image, extension, options):
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    path = save_image(frames[0], extension, save_all=True, append_images=frames[1:], **options)
    assert (decode_file(path, 3) == [255, 0, 0]).all()


def test_decode_gif_palette(save_image):
    image = Image.fromarray(COLOR).quantize(32)
    assert np.array_equal(decode_file(save_image(image, "gif"), 3), np.asarray(image.convert("RGB")))


def test_decode_gif_and_webp_transparent_becomes_white(save_image):
    image = Image.new("P", (8, 8), 0)
    image.putpalette([0, 0, 0, 250, 0, 0])
    image.paste(1, (0, 0, 4, 8))
    pixels = decode_file(save_image(image, "gif", transparency=1), 3)
    assert (pixels[:, :4] == 255).all()
    assert (pixels[:, 4:] == 0).all()
    transparent = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    assert (decode_file(save_image(transparent, "webp", lossless=True), 1) == 255).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("extension", ["jpg", "png", "webp"])
def test_decode_exif_orientation_gives_upright(save_image, orientation, extension):
    # How the sensor of a turned camera sees the scene.
    transposes = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE"}
    transposes |= {6: "ROTATE_90", 7: "TRANSVERSE", 8: "ROTATE_270"}
    upright = Image.new("L", (32, 16))
    upright.paste(255, (0, 0, 16, 8))  # top left is white
    sensor = upright.transpose(Image.Transpose[transposes[orientation]]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = decode_file(save_image(sensor, extension, exif=exif), 1)
    assert pixels.shape == (16, 32, 1)
    assert np.abs(pixels[..., 0].astype(int) - np.asarray(upright)).mean() < 4


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_decode_invalid_exif_is_ignored(save_image):
    exif = b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12" * 9
    path = save_image(Image.fromarray(GRAY), "jpg", exif=exif, quality=95)
    assert decode_file(path, 1).shape == (10, 14, 1)


def test_error_reason_describes_bad_file(tmp_path, save_image):
    def decoding_error(path):
        with pytest.raises(Exception) as caught:  # noqa: PT011 - Pillow raises many types
            decode_file(str(path), 3)
        return error_reason(caught.value)

    text = tmp_path / "text.jpg"
    text.write_text("not an image")
    assert decoding_error(text) == "not an image, or in a format that Pillow does not support"
    assert decoding_error(tmp_path / "missing.jpg") == "No such file or directory"
    save_image(Image.fromarray(COLOR).resize((200, 200)), "jpg")
    complete = (tmp_path / "image.jpg").read_bytes()
    (tmp_path / "truncated.jpg").write_bytes(complete[: len(complete) // 2])
    assert "Premature end" in decoding_error(tmp_path / "truncated.jpg")
    assert "floating-point" in decoding_error(save_image(Image.fromarray(GRAY.astype(np.float32)), "tif"))


def encode_png(values, color_type):
    """A PNG file of uint16 (H, W, C); `color_type` is the field of its header."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


XMP = b'http://ns.adobe.com/xap/1.0/\0<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
TIFF = {  # the header, and one directory entry: tag, field type, count, value
    "little": b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0",
    "big": b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0",
}


@pytest.mark.parametrize("segment", [XMP, *(b"Exif\0\0" + tiff for tiff in TIFF.values())], ids=["xmp", *TIFF])
def test_decode_orientation_in_xmp_and_exif(save_image, segment):
    path = save_image(Image.fromarray(GRAY), "jpg", quality=95)
    with open(path, "rb") as file:
        data = file.read()
    rotated = data[:2] + b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment + data[2:]
    with Image.open(io.BytesIO(rotated)) as image:
        assert image.getexif()[0x0112] == 6  # Pillow agrees
    assert np.array_equal(decode_bytes(rotated, 1), decode_bytes(data, 1).transpose(1, 0, 2)[:, ::-1])
    assert check_header(rotated) == check_header(data)[::-1]


def test_verify_jpeg_accepts_what_all_decoders_decode_alike():
    color = Image.fromarray(make_pixels("color", 20, 30))
    results = []
    for image, options in (
        (color, {}),
        (color.convert("L"), {}),
        (color, {"keep_rgb": True}),
        (color.convert("CMYK"), {}),
    ):
        content = io.BytesIO()
        image.save(content, "jpeg", **options)
        results.append(verify_jpeg(content.getvalue()))
    assert results == [True, True, False, False]


def test_check_header_rejects_images_that_are_too_long():
    def png(width, height):
        content = io.BytesIO()
        Image.new("L", (width, height)).save(content, "png")
        return content.getvalue()

    assert check_header(png(2, 2000)) == (2000, 2)
    with pytest.raises(ValueError, match="2001 x 2 pixels: one side is more than 1,000 times the other"):
        check_header(png(2001, 2))
