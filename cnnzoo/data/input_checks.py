"""Refuses settings that do not suit the size and the format of the images, before anything is read."""

from cnnzoo.data.split import Split
from cnnzoo.data.transforms.augment import Augment
from cnnzoo.data.transforms.pixel_format import format_text, is_plain
from cnnzoo.errors import UserError
from cnnzoo.runtime.formatting import plural
from cnnzoo.sizes import Size, size_override


def check_augment(augment: Augment, image_size: Size, channels: int, bits: int) -> None:
    """Raise UserError if the training augmentation is not possible for images of this size and format."""
    if augment.rotate90 and image_size[0] != image_size[1]:
        raise UserError(
            f"augment.rotate90=true: needs a square image size, not {size_override(image_size)}; type "
            f"data.image_size={max(image_size)}, or augment.rotate90=false augment.vertical_flip=0.5"
        )
    if is_plain(channels, bits):
        return
    operations = {"auto_augment": augment.auto_augment, "color_jitter": any(augment.color_jitter or ())}
    for name, is_on in operations.items():
        if is_on:
            value = f"{getattr(augment, name)}".replace("(", "[").replace(")", "]").replace(", ", ",")
            raise UserError(
                f"augment.{name}={value}: works only on 8 bits and 1 or 3 channels, not on "
                f"{format_text(channels, bits)}; type augment.{name}=null"
            )


def check_fit(augment: Augment) -> None:
    """Raise UserError if a setting cuts off parts of the images that "pad" or "squash" is to show."""
    if augment.fit == "crop":
        return
    if augment.crop == "random_resized":
        raise UserError(
            f"data.fit={augment.fit}: augment.crop=random_resized trains on parts of the images; type "
            "augment.crop=padded or augment.crop=center, or data.fit=crop"
        )
    if augment.eval_resize not in (None, 1):
        raise UserError(
            f"augment.eval_resize={augment.eval_resize:g}: cuts off the border of the images, but data.fit="
            f"{augment.fit} shows all of them; type augment.eval_resize=1, or data.fit=crop"
        )


def check_pixels(name: str, split: Split, channels: int, bits: int) -> None:
    """Raise UserError if a data set that is in memory, and not in files, does not have this format."""
    if split.pixels is None or is_plain(channels, bits):
        return
    count = split.pixels.shape[-1]
    typed, way_out = (f"data.channels={channels}", "type data.channels=1 or data.channels=3")
    if bits == 16:
        typed, way_out = "data.bits=16", "leave data.bits out"
    raise UserError(f"{typed}: the images of data={name} have 8 bits and {plural(count, 'channel')}; {way_out}")
