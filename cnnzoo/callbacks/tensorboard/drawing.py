"""Pictures for TensorBoard, drawn with PIL, all (H, W, 3) uint8: grids of images, confusion matrices, bars, filters."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from torch import Tensor

Picture = npt.NDArray[np.uint8]

MIN_WIDTH = 350
"""How wide TensorBoard shows a picture: others are stretched to it, and their letters suffer."""
LINE_HEIGHT = 13
"""Pixels from one line of text to the next."""
RIGHT_COLOR, WRONG_COLOR = np.array([31, 92, 156]), np.array([200, 30, 30])
"""Colours of what is all right, and all wrong; less of either is nearer to white."""


def draw_captioned_grid(images: Tensor, captions: Sequence[str], *, columns: int, side: int) -> Picture:
    """`(N, C, H, W)` in 0 to 1, N >= 1 -> a grid of tiles `side` wide, with a caption below each.

    Images are enlarged without smoothing, or made smaller with it. A caption has as many lines as the longest, parted
    by newlines; the first is black, the others are red. What is too long for its tile is cut.
    """
    pixels = (images.clamp(0, 1) * 255).round().byte().expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()
    lines = [caption.split("\n") for caption in captions]
    way = Image.Resampling.NEAREST if pixels.shape[1] <= side else Image.Resampling.BOX
    height = side + LINE_HEIGHT * max(map(len, lines)) + 1
    rows = math.ceil(len(pixels) / columns)
    sheet = Image.new("RGB", (columns * side, rows * height), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (image, texts) in enumerate(zip(pixels, lines, strict=True)):
        x, y = i % columns * side, i // columns * height
        sheet.paste(Image.fromarray(image).resize((side, side), way), (x, y))
        for n, text in enumerate(texts):
            place, color = (x + side / 2, y + side + 1 + n * LINE_HEIGHT), tuple(WRONG_COLOR) if n else "black"
            draw.text(place, truncate(draw, text, side - 4), fill=color, anchor="ma")
    return _pad_to_width(sheet)


def draw_confusion_matrix(counts: npt.NDArray[np.int64], names: Sequence[str]) -> Picture:
    """(C, C) counts, rows the true classes and columns the predicted ones -> the matrix, with each row's accuracy.

    Cells are shaded by their share of the row: the diagonal blue, mistakes red, on a scale that shows few of them, too.
    """
    measure = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    names = [truncate(measure, name, 140) for name in names]
    widest = math.ceil(max(measure.textlength(text) for text in names))
    cell = max(24, math.ceil(measure.textlength(str(counts.max()))) + 8)
    turned = widest > cell - 4
    left, top = LINE_HEIGHT + widest + 14, LINE_HEIGHT + (widest if turned else LINE_HEIGHT) + 12
    size = cell * len(names)
    sheet = Image.new("RGB", (left + size + 48, top + size + 4), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((left + size / 2, 1), "predicted", fill="gray", anchor="ma")
    draw.text((left + size + 44, top - 4), "right", fill="gray", anchor="rs")
    _draw_vertical_text(sheet, "true", (1, top + size // 2), "gray", centered=True)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    for row, name in enumerate(names):
        y = top + row * cell
        draw.text((left - 6, y + cell / 2), name, fill="black", anchor="rm")
        if turned:
            _draw_vertical_text(sheet, name, (left + row * cell + (cell - LINE_HEIGHT) // 2, top - 4), "black")
        else:
            draw.text((left + row * cell + cell / 2, top - 4), name, fill="black", anchor="ms")
        for column in range(len(names)):
            share = float(shares[row, column])
            color = _shade(RIGHT_COLOR, share) if row == column else _shade(WRONG_COLOR, math.sqrt(share))
            x = left + column * cell
            draw.rectangle((x, y, x + cell - 1, y + cell - 1), fill=color, outline=(225, 225, 225))
            if counts[row, column]:
                ink = "white" if sum(color) < 420 else "black"
                draw.text((x + cell / 2, y + cell / 2), str(counts[row, column]), fill=ink, anchor="mm")
        if counts[row].any():
            draw.text((left + size + 44, y + cell / 2), f"{shares[row, row]:.1%}", fill="black", anchor="rm")
    return _pad_to_width(sheet)


def draw_bars(rows: Sequence[tuple[str, float, str]], title: str, *, wrong: bool) -> Picture:
    """`(label, share from 0 to 1, note)`, at least one -> a bar for each, red for what is wrong, else blue."""
    width, height = 200, LINE_HEIGHT + 5
    measure = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    labels = [truncate(measure, label, 320) for label, _, _ in rows]
    left = math.ceil(max(measure.textlength(label) for label in labels)) + 12
    right = math.ceil(max(measure.textlength(note) for _, _, note in rows)) + 10
    full = max(left + width + right, math.ceil(measure.textlength(title)) + 12)
    sheet = Image.new("RGB", (full, height * (len(rows) + 1) + 6), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((6, 3), title, fill="gray")
    for n, (label, (_, share, note)) in enumerate(zip(labels, rows, strict=True)):
        y = height * (n + 1) + 2
        draw.text((left - 6, y + height / 2), label, fill="black", anchor="rm")
        draw.rectangle((left, y + 2, left + width, y + height - 3), fill=(240, 240, 240))
        if share > 0:
            color = tuple(WRONG_COLOR if wrong else RIGHT_COLOR)
            draw.rectangle((left, y + 2, left + share * width, y + height - 3), fill=color)
        draw.text((left + width + 6, y + height / 2), note, fill="black", anchor="lm")
    return _pad_to_width(sheet)


def draw_filters(weight: Tensor) -> Picture:
    """(N, C, H, W) -> a grid as square as N allows, in colour for 3 channels, else the mean over them in grey.

    Each filter is scaled by itself, its largest weight to black or white; 0 is mid-grey.
    """
    tiles = weight.detach().float().cpu()
    tiles = tiles if tiles.shape[1] == 3 else tiles.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    largest = tiles.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-12)
    pixels = ((tiles / largest + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    columns = math.ceil(math.sqrt(len(pixels)))
    rows = math.ceil(len(pixels) / columns)
    factor = max(1, (MIN_WIDTH // columns - 2) // max(pixels.shape[1:3]))
    height, width = (size * factor + 2 for size in pixels.shape[1:3])
    sheet = np.full((rows * height, columns * width, 3), 255, np.uint8)
    for i, tile in enumerate(pixels):
        y, x = i // columns * height, i % columns * width
        large = tile.repeat(factor, 0).repeat(factor, 1)
        sheet[y : y + height - 2, x : x + width - 2] = large
    return _pad_to_width(Image.fromarray(sheet))


def truncate(draw: ImageDraw.ImageDraw, text: str, width: float) -> str:
    """As much of the text as `width` pixels hold."""
    while text and draw.textlength(text) > width:
        text = text[:-1]
    return text


def _pad_to_width(sheet: Image.Image) -> Picture:
    """The sheet, with white to its right where it is narrower than `WIDTH`."""
    whole = Image.new("RGB", (max(MIN_WIDTH, sheet.width), sheet.height), "white")
    whole.paste(sheet)
    return np.asarray(whole)


def _shade(color: npt.NDArray[np.int64], share: float) -> tuple[int, int, int]:
    """White at 0, the colour at 1."""
    red, green, blue = (255 + share * (color - 255)).round().astype(int).tolist()
    return red, green, blue


def _draw_vertical_text(
    sheet: Image.Image, text: str, place: tuple[int, int], color: str, *, centered: bool = False
) -> None:
    """Write from bottom to top; `place` is the left edge, and the lower end or the middle."""
    length = math.ceil(ImageDraw.Draw(sheet).textlength(text))
    strip = Image.new("RGB", (max(1, length), LINE_HEIGHT), "white")
    ImageDraw.Draw(strip).text((0, LINE_HEIGHT / 2), text, fill=color, anchor="lm")
    strip = strip.transpose(Image.Transpose.ROTATE_90)
    sheet.paste(strip, (place[0], place[1] - (length // 2 if centered else length)))
