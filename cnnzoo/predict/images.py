"""The image files that `images=` names."""

import os
import sys
from glob import glob, has_magic
from pathlib import Path

from cnnzoo.data.datasets.file_source import EXTENSIONS
from cnnzoo.data.datasets.folder import image_files
from cnnzoo.errors import UserError

STDIN = "-"


def find_images(images: str) -> list[str]:
    """The paths that `images` names, sorted except for those on standard input.

    images: a file, a directory (all images in it and below; hidden files and folders are ignored), a pattern such as
        "photos/**/*.jpg" (all files that match), or "-" for paths on standard input, one per line.

    Only the names of a directory's files are checked. Raises UserError if there is none, or if the file or directory
    does not exist. A path on standard input need not exist.
    """
    if images == STDIN:
        lines = [] if sys.stdin is None else sys.stdin.buffer.read().splitlines()
        return _not_empty([os.fsdecode(line) for line in lines if line], "images=-: no paths on standard input")
    path = Path(images).expanduser()
    if path.is_dir():
        return _not_empty(
            [os.fsdecode(file) for file in sorted(image_files(path))],
            f"images={images}: no images in this directory (looked for {', '.join(EXTENSIONS)})",
        )
    if path.exists():
        return [str(path)]
    if has_magic(images):
        matches = sorted(glob(str(path), recursive=True), key=os.fsencode)
        return _not_empty(
            [match for match in matches if not os.path.isdir(match)], f"images={images}: no file matches this pattern"
        )
    raise UserError(
        f"images={images}: no such file or directory; type a file, a directory, a pattern such as 'DIR/*.jpg', or - "
        "for paths on standard input"
    )


def _not_empty(paths: list[str], message: str) -> list[str]:
    if not paths:
        raise UserError(message)
    return paths
