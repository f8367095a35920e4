"""Files of all kinds to pixels."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from cnnzoo.data.transforms.decode import check_header, decode_bytes, decode_file, error_reason
from tests.helpers.images import pixels_of

GREY = pixels_of("grey", 10, 14, 1)[..., 0]
COLOUR = pixels_of("colour", 10, 14)


@pytest.fixture
def saved(tmp_path):
    """A function that saves a Pillow image and returns its path."""

    def save(image, ending="png", **options):
        path = tmp_path / f"image.{ending}"
        image.save(path, **options)
        return str(path)

    return save


def test_colour(saved):
    path = saved(Image.fromarray(COLOUR))
    assert np.array_equal(decode_file(path, 3), COLOUR)
    assert np.array_equal(decode_file(path, 1)[..., 0], np.asarray(Image.fromarray(COLOUR).convert("L")))


def test_grey(saved):
    path = saved(Image.fromarray(GREY))
    assert np.array_equal(decode_file(path, 1), GREY[..., None])
    assert np.array_equal(decode_file(path, 3), np.stack([GREY] * 3, -1))


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"subsampling": 1, "quality": 40}])
@pytest.mark.parametrize("pixels", [COLOUR, GREY])
def test_jpeg(saved, options, pixels):
    path = saved(Image.fromarray(pixels), "jpg", **options)
    for channels, mode in ((3, "RGB"), (1, "L")):
        with Image.open(path) as image:
            expected = np.asarray(image.convert("RGB").convert(mode)).reshape(10, 14, channels).astype(int)
        assert np.abs(decode_file(path, channels) - expected).max() <= 1


@pytest.mark.parametrize(("ending", "options"), [("bmp", {}), ("webp", {"lossless": True}), ("ppm", {})])
def test_other_formats_without_loss(saved, ending, options):
    for pixels in (COLOUR, np.stack([GREY] * 3, -1)):
        assert np.array_equal(decode_file(saved(Image.fromarray(pixels), ending, **options), 3), pixels)


def test_bmp_with_a_palette_and_in_grey(saved):
    palette = Image.fromarray(COLOUR).quantize(16)
    assert np.array_equal(decode_file(saved(palette, "bmp"), 3), np.asarray(palette.convert("RGB")))
    assert np.array_equal(decode_file(saved(Image.fromarray(GREY), "bmp"), 1)[..., 0], GREY)


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_sixteen_bits_keep_their_range(saved, ending):
    path = saved(Image.fromarray(GREY.astype(np.uint16) * 257), ending)
    assert np.array_equal(decode_file(path, 1)[..., 0], GREY)
    assert np.array_equal(decode_file(path, 3)[..., 2], GREY)


def test_sixteen_bits_are_rounded(saved):
    path = saved(Image.fromarray(np.array([[0, 128, 129, 40000, 65535]], np.uint16)))
    assert decode_file(path, 1).ravel().tolist() == [0, 0, 1, 156, 255]


@pytest.mark.parametrize("colours", [1, 2, 3, 4])
def test_png_of_sixteen_bits_a_channel(tmp_path, colours):
    """Grey, grey and alpha, colour, colour and alpha; Pillow writes only the first."""
    values = pixels_of("deep", 10, 14, colours).astype(np.uint16) * 257
    if colours in (2, 4):
        values[..., -1] = 65535
    path = tmp_path / "deep.png"
    path.write_bytes(_png(values, {1: 0, 2: 4, 3: 2, 4: 6}[colours]))
    expected = (values // 257).astype(np.uint8)[..., : 3 if colours > 2 else 1]
    assert np.array_equal(decode_file(str(path), 3), np.broadcast_to(expected, (10, 14, 3)))


def test_palette(saved):
    image = Image.fromarray(COLOUR).quantize(16)
    assert np.array_equal(decode_file(saved(image), 3), np.asarray(image.convert("RGB")))


def test_black_and_white(saved):
    path = saved(Image.fromarray(GREY > 127))
    assert np.array_equal(decode_file(path, 1)[..., 0], np.where(GREY > 127, 255, 0))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_becomes_white(saved, mode):
    alpha = np.full((10, 14), 255, np.uint8)
    alpha[:, 7:] = 0
    opaque = np.zeros((10, 14, 3), np.uint8)
    image = Image.fromarray(np.dstack([opaque, alpha])).convert(mode)
    if mode == "P":
        image = Image.fromarray((alpha == 0).astype(np.uint8)).convert("P")
        image.putpalette([0] * 6)
        path = saved(image, transparency=1)
    else:
        path = saved(image)
    pixels = decode_file(path, 3)
    assert (pixels[:, :7] == 0).all()
    assert (pixels[:, 7:] == 255).all()


def test_cmyk(saved):
    flat = Image.new("RGB", (16, 16), (200, 60, 20))
    path = saved(flat.convert("CMYK"), "jpg", quality=100)
    assert np.abs(decode_file(path, 3).astype(int) - [200, 60, 20]).max() <= 6


def test_cmyk_as_photoshop_saves_it(saved):
    """YCCK: luminance, chroma and black, all inverted; Pillow writes no such file, so Adobe's marker is changed."""
    stored = Image.new("RGB", (16, 16), (255 - 200, 255 - 60, 255 - 20)).convert("YCbCr").getpixel((0, 0))
    path = saved(Image.new("CMYK", (16, 16), (*(255 - value for value in stored), 0)), "jpg", quality=100)
    with open(path, "r+b") as file:
        file.seek(file.read().index(b"Adobe") + 11)
        assert file.read(1) == b"\0"
        file.seek(-1, 1)
        file.write(b"\2")
    assert np.abs(decode_file(path, 3).astype(int) - [200, 60, 20]).max() <= 6


@pytest.mark.parametrize(("ending", "options"), [("gif", {}), ("webp", {"lossless": True}), ("png", {})])
def test_the_first_frame_of_an_animation(saved, ending, options):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    path = saved(frames[0], ending, save_all=True, append_images=frames[1:], **options)
    assert (decode_file(path, 3) == [255, 0, 0]).all()


def test_gif_of_many_colours(saved):
    image = Image.fromarray(COLOUR).quantize(32)
    assert np.array_equal(decode_file(saved(image, "gif"), 3), np.asarray(image.convert("RGB")))


def test_what_is_transparent_in_gif_and_webp_becomes_white(saved):
    half = Image.new("P", (8, 8), 0)
    half.putpalette([0, 0, 0, 250, 0, 0])
    half.paste(1, (0, 0, 4, 8))
    pixels = decode_file(saved(half, "gif", transparency=1), 3)
    assert (pixels[:, :4] == 255).all()
    assert (pixels[:, 4:] == 0).all()
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    assert (decode_file(saved(clear, "webp", lossless=True), 1) == 255).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
def test_rotated_as_exif_says(saved, orientation, ending):
    """Whatever way the camera was held, the picture comes out upright."""
    turns = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE"}
    turns |= {6: "ROTATE_90", 7: "TRANSVERSE", 8: "ROTATE_270"}  # how the sensor saw it
    upright = Image.new("L", (32, 16))
    upright.paste(255, (0, 0, 16, 8))  # top left is white
    held = upright.transpose(Image.Transpose[turns[orientation]]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = decode_file(saved(held, ending, exif=exif), 1)
    assert pixels.shape == (16, 32, 1)
    assert np.abs(pixels[..., 0].astype(int) - np.asarray(upright)).mean() < 4


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_broken_exif_does_not_cost_the_image(saved):
    path = saved(Image.fromarray(GREY), "jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12" * 9, quality=95)
    assert decode_file(path, 1).shape == (10, 14, 1)


def test_why_it_cannot_be_decoded(tmp_path, saved):
    def reason(path):
        with pytest.raises(Exception) as caught:  # noqa: PT011 - whatever Pillow raises
            decode_file(str(path), 3)
        return error_reason(caught.value)

    text = tmp_path / "text.jpg"
    text.write_text("not an image")
    assert reason(text) == "not an image, or of a format that Pillow does not know"
    assert reason(tmp_path / "gone.jpg") == "No such file or directory"
    whole = (tmp_path / "image.jpg").read_bytes() if saved(Image.fromarray(COLOUR).resize((200, 200)), "jpg") else b""
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    assert "Premature end" in reason(tmp_path / "cut.jpg")
    assert "floating-point" in reason(saved(Image.fromarray(GREY.astype(np.float32)), "tif"))


def _png(values, kind):
    """A PNG file of uint16 (H, W, C); `kind` is the colour type of its header."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


XMP = b'http://ns.adobe.com/xap/1.0/\0<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
TIFF = {  # the header, and one entry: tag, kind, count, value
    "little": b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0",
    "big": b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0",
}


@pytest.mark.parametrize("segment", [XMP, *(b"Exif\0\0" + tiff for tiff in TIFF.values())], ids=["xmp", *TIFF])
def test_orientation_wherever_it_stands(saved, segment):
    path = saved(Image.fromarray(GREY), "jpg", quality=95)
    with open(path, "rb") as file:
        data = file.read()
    turned = data[:2] + b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment + data[2:]
    with Image.open(io.BytesIO(turned)) as image:
        assert image.getexif()[0x0112] == 6  # Pillow agrees
    assert np.array_equal(decode_bytes(turned, 1), decode_bytes(data, 1).transpose(1, 0, 2)[:, ::-1])
    assert check_header(turned) == check_header(data)[::-1]
