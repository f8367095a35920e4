"""The properties of the training data that must be the same when a run is resumed within an epoch."""

from collections.abc import Mapping
from typing import Any

from cnnzoo.data.image_data import ImageData
from cnnzoo.errors import UserError


def fingerprint(data: ImageData) -> dict[str, Any]:
    """The properties, as plain types that a checkpoint stores."""
    train = data.split("train")
    assert train is not None
    return {
        "classes": list(data.classes),
        "training images": len(train),
        "images per step": data.batch_size * data.ranks.world_size,
    }


def check_fingerprint(data: ImageData, saved: Mapping[str, Any]) -> None:
    """Raise UserError if the data or the images per step are not those of the fingerprint `saved`."""
    for name, value in fingerprint(data).items():
        if value == saved[name]:
            continue
        if name == "images per step":
            raise UserError(
                f"data.batch_size={data.batch_size}: {value} images per step on all devices together, expected "
                f"{saved[name]} as before the run was stopped; type "
                f"data.batch_size={saved[name] * data.batch_size // value}"
            )
        raise UserError(f"the data has changed since this run was stopped: {name} were {saved[name]}, are now {value}")
