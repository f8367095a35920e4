"""Pictures for TensorBoard, drawn with PIL: grids of images, confusion matrices, bar charts and filters.

All functions return uint8 arrays (H, W, 3).
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from torch import Tensor

Picture = npt.NDArray[np.uint8]
Color = npt.NDArray[np.int64]

MIN_WIDTH = 350
"""Width in pixels at which TensorBoard shows a picture. It stretches narrower ones, which blurs their text."""
LINE_HEIGHT = 13
"""Height of a line of text in pixels."""
CORRECT_COLOR, WRONG_COLOR = np.array([31, 92, 156]), np.array([200, 30, 30])
"""Blue for correct and red for wrong predictions. Smaller fractions are blended with white."""


def draw_captioned_grid(images: Tensor, captions: Sequence[str], *, columns: int, side: int) -> Picture:
    """Images (N, C, H, W) in 0 to 1, N >= 1 -> a grid of images `side` pixels wide, with a caption below each.

    Of more than three channels, the first three are shown as red, green and blue, and of two channels the first one.
    Images are enlarged without smoothing, and reduced with it. Lines of a caption are separated by newlines: the first
    is black, the others are red. Text that is too long for its tile is truncated.
    """
    images = images[:, : 3 if images.shape[1] >= 3 else 1]
    pixels = (images.clamp(0, 1) * 255).round().byte().expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()
    caption_lines = [caption.split("\n") for caption in captions]
    resample = Image.Resampling.NEAREST if pixels.shape[2] <= side else Image.Resampling.BOX
    image_height = max(1, round(side * pixels.shape[1] / pixels.shape[2]))
    height = image_height + LINE_HEIGHT * max(map(len, caption_lines)) + 1
    rows = math.ceil(len(pixels) / columns)
    sheet = Image.new("RGB", (columns * side, rows * height), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (image, lines) in enumerate(zip(pixels, caption_lines, strict=True)):
        x, y = i % columns * side, i // columns * height
        sheet.paste(Image.fromarray(image).resize((side, image_height), resample), (x, y))
        for n, line in enumerate(lines):
            position = x + side / 2, y + image_height + 1 + n * LINE_HEIGHT
            color = tuple(WRONG_COLOR) if n else "black"
            draw.text(position, truncate(draw, line, side - 4), fill=color, anchor="ma")
    return _pad_to_min_width(sheet)


def draw_confusion_matrix(counts: npt.NDArray[np.int64], names: Sequence[str]) -> Picture:
    """Counts (C, C), rows the true and columns the predicted classes -> the matrix, with each row's accuracy beside it.

    A cell's shade is its fraction of the row: blue on the diagonal, red elsewhere. Red uses the square root of the
    fraction, so that rare mistakes are visible.
    """
    measure = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    names = [truncate(measure, name, 140) for name in names]
    name_width = math.ceil(max(measure.textlength(name) for name in names))
    cell = max(24, math.ceil(measure.textlength(str(counts.max()))) + 8)
    vertical_names = name_width > cell - 4
    left, top = LINE_HEIGHT + name_width + 14, LINE_HEIGHT + (name_width if vertical_names else LINE_HEIGHT) + 12
    size = cell * len(names)
    sheet = Image.new("RGB", (left + size + 48, top + size + 4), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((left + size / 2, 1), "predicted", fill="gray", anchor="ma")
    draw.text((left + size + 44, top - 4), "correct", fill="gray", anchor="rs")
    _draw_vertical_text(sheet, "true", (1, top + size // 2), "gray", centered=True)
    fractions = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    for row, name in enumerate(names):
        y = top + row * cell
        draw.text((left - 6, y + cell / 2), name, fill="black", anchor="rm")
        if vertical_names:
            _draw_vertical_text(sheet, name, (left + row * cell + (cell - LINE_HEIGHT) // 2, top - 4), "black")
        else:
            draw.text((left + row * cell + cell / 2, top - 4), name, fill="black", anchor="ms")
        for column in range(len(names)):
            fraction = float(fractions[row, column])
            if row == column:
                color = _blend_with_white(CORRECT_COLOR, fraction)
            else:
                color = _blend_with_white(WRONG_COLOR, math.sqrt(fraction))
            x = left + column * cell
            draw.rectangle((x, y, x + cell - 1, y + cell - 1), fill=color, outline=(225, 225, 225))
            if counts[row, column]:
                text_color = "white" if sum(color) < 420 else "black"
                draw.text((x + cell / 2, y + cell / 2), str(counts[row, column]), fill=text_color, anchor="mm")
        if counts[row].any():
            draw.text((left + size + 44, y + cell / 2), f"{fractions[row, row]:.1%}", fill="black", anchor="rm")
    return _pad_to_min_width(sheet)


def draw_bars(rows: Sequence[tuple[str, float, str]], title: str, *, color: Color) -> Picture:
    """Rows of (label, fraction from 0 to 1, note), at least one -> a horizontal bar chart."""
    width, height = 200, LINE_HEIGHT + 5
    measure = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    labels = [truncate(measure, label, 320) for label, _, _ in rows]
    left = math.ceil(max(measure.textlength(label) for label in labels)) + 12
    right = math.ceil(max(measure.textlength(note) for _, _, note in rows)) + 10
    sheet_width = max(left + width + right, math.ceil(measure.textlength(title)) + 12)
    sheet = Image.new("RGB", (sheet_width, height * (len(rows) + 1) + 6), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((6, 3), title, fill="gray")
    for n, (label, (_, fraction, note)) in enumerate(zip(labels, rows, strict=True)):
        y = height * (n + 1) + 2
        draw.text((left - 6, y + height / 2), label, fill="black", anchor="rm")
        draw.rectangle((left, y + 2, left + width, y + height - 3), fill=(240, 240, 240))
        if fraction > 0:
            draw.rectangle((left, y + 2, left + fraction * width, y + height - 3), fill=tuple(color))
        draw.text((left + width + 6, y + height / 2), note, fill="black", anchor="lm")
    return _pad_to_min_width(sheet)


def draw_filters(weight: Tensor) -> Picture:
    """Weight (N, C, H, W) -> a nearly square grid of the N filters, in color for 3 channels, else their mean in gray.

    Each filter is scaled separately: 0 is mid-gray, and its largest absolute weight is black or white.
    """
    tiles = weight.detach().float().cpu()
    tiles = tiles if tiles.shape[1] == 3 else tiles.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    largest = tiles.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-12)
    pixels = ((tiles / largest + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    columns = math.ceil(math.sqrt(len(pixels)))
    rows = math.ceil(len(pixels) / columns)
    scale = max(1, (MIN_WIDTH // columns - 2) // max(pixels.shape[1:3]))
    height, width = (size * scale + 2 for size in pixels.shape[1:3])
    sheet = np.full((rows * height, columns * width, 3), 255, np.uint8)
    for i, tile in enumerate(pixels):
        y, x = i // columns * height, i % columns * width
        sheet[y : y + height - 2, x : x + width - 2] = tile.repeat(scale, 0).repeat(scale, 1)
    return _pad_to_min_width(Image.fromarray(sheet))


def truncate(draw: ImageDraw.ImageDraw, text: str, width: float) -> str:
    """The longest prefix of `text` that is at most `width` pixels wide."""
    while text and draw.textlength(text) > width:
        text = text[:-1]
    return text


def _pad_to_min_width(sheet: Image.Image) -> Picture:
    """The sheet, with white on its right if it is narrower than `MIN_WIDTH`."""
    padded = Image.new("RGB", (max(MIN_WIDTH, sheet.width), sheet.height), "white")
    padded.paste(sheet)
    return np.asarray(padded)


def _blend_with_white(color: Color, fraction: float) -> tuple[int, int, int]:
    """White for fraction 0, `color` for 1."""
    red, green, blue = (255 + fraction * (color - 255)).round().astype(int).tolist()
    return red, green, blue


def _draw_vertical_text(
    sheet: Image.Image, text: str, position: tuple[int, int], color: str, *, centered: bool = False
) -> None:
    """Draw `text` from bottom to top; `position` is its left edge and its lower end, or its middle if `centered`."""
    length = math.ceil(ImageDraw.Draw(sheet).textlength(text))
    strip = Image.new("RGB", (max(1, length), LINE_HEIGHT), "white")
    ImageDraw.Draw(strip).text((0, LINE_HEIGHT / 2), text, fill=color, anchor="lm")
    strip = strip.transpose(Image.Transpose.ROTATE_90)
    sheet.paste(strip, (position[0], position[1] - (length // 2 if centered else length)))
