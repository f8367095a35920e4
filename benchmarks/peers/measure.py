"""Images per second of a loader, measured in the same way in the process of the benchmark and in that of a peer."""

import json
import sys
import time
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

SIDE = 224
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


def find_images(folder: Path) -> list[str]:
    """The paths of the images in a folder, at any depth, sorted."""
    return sorted(str(path) for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)


def rate(batches: Iterable[Any], seconds: float, *, busy: float = 0.0) -> float:
    """Images per second: one epoch to warm up, then whole epochs until `seconds` have passed.

    batches: an epoch in each iteration: tensors, or tuples and lists that begin with one, or DALI's dictionaries.
    busy: seconds of Python code after each batch.
    """
    for _ in batches:
        pass
    images, start = 0, time.perf_counter()
    while True:
        for batch in batches:
            images += _num_images(batch)
            end = time.perf_counter() + busy
            while time.perf_counter() < end:
                pass
        elapsed = time.perf_counter() - start
        if elapsed >= seconds:
            return images / elapsed


def _num_images(batch: Any) -> int:
    first = batch[0] if isinstance(batch, list | tuple) else batch
    return len(first["images"] if isinstance(first, dict) else first)


def serve_rates(batches: Iterable[Any], packages: Sequence[str]) -> None:
    """Print the versions of `packages` as JSON; then read numbers of seconds, and print `rate` for each."""
    print(json.dumps({package: version(package) for package in packages}), flush=True)
    for line in sys.stdin:
        print(rate(batches, float(line)), flush=True)
