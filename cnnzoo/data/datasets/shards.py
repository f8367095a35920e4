"""Data sets that are divided into files with many images each: finding these files and their splits."""

import math
import os
import re
from collections.abc import Sequence
from glob import glob
from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cnnzoo.data.datasets.file_source import SPLIT_NAMES
from cnnzoo.data.split import SPLITS
from cnnzoo.errors import UserError

MAX_ALTERNATIVES = 10**5  # files that one pattern with braces may name


def find_shards(root: str | None, suffix: str, source: str) -> tuple[Path, list[Path]]:
    """The files that `root` names, and the directory that their names in messages are relative to.

    root: a directory, in which files that end with `suffix` are looked for at any depth; or the path of a file, which
        may have braces, as in "train-{000..009}.tar", and wildcards.
    source: the data set's name, for the error.

    The files of a directory or a wildcard are sorted by path. Raises UserError if a file or all files are missing.
    """
    if root is None or not str(root):
        raise UserError(
            f"data={source}: expected data.root=DIR with {suffix} files, or a pattern such as x-{{0..9}}{suffix}"
        )
    path = Path(str(root)).expanduser()
    if path.is_dir():
        found = sorted(path.rglob(f"*{suffix}"))
        found = [file for file in found if file.is_file() and not _is_hidden(file.relative_to(path))]
        if not found:
            raise UserError(f"data.root={root}: no {suffix} files in this directory")
        return path, found
    files: list[Path] = []
    for name in [str(path)] if path.is_file() else expand_braces(str(path)):
        matches = [name] if Path(name).is_file() else sorted(glob(name))
        if not matches:
            raise UserError(f"data.root={root}: no file or directory {name}")
        files += map(Path, matches)
    return Path(os.path.commonpath([file.parent for file in files])), files


def expand_braces(pattern: str) -> list[str]:
    """The names that a pattern stands for, as in a shell: "a{08..10}b{x,y}" gives six, from "a08bx" to "a10by".

    Raises UserError for more than `MAX_ALTERNATIVES`.
    """
    parts = [_alternatives(part) for part in re.split(r"(\{[^{}]*\})", pattern)]
    if math.prod(len(numbers) for _, numbers in parts) > MAX_ALTERNATIVES:
        raise UserError(f"data.root={pattern}: stands for more than {MAX_ALTERNATIVES:,} files")
    texts = [[str(value).zfill(width) for value in values] for width, values in parts]
    return ["".join(choice) for choice in product(*texts)]


def _alternatives(part: str) -> tuple[int, Sequence[str | int]]:
    """(the number of digits, the texts or numbers) that a part in braces, or another part, stands for."""
    numbers = re.fullmatch(r"\{(\d{1,9})\.\.(\d{1,9})\}", part)
    if numbers:
        first, last = numbers.groups()
        return len(first), range(int(first), int(last) + 1)
    return 0, part[1:-1].split(",") if part.startswith("{") and "," in part else [part]


def splits_of_shards(root: Path, shards: Sequence[Path], source: str) -> npt.NDArray[np.int8]:
    """The number in `SPLITS` of each file, by the last part of its path below `root` that names a split.

    "train/000.tar" and "imagenet-train-000.tar" are train. If no file's name does, all are train. Raises UserError if
    only some names do, or if one names several splits.
    """
    found: list[str | None] = []
    for shard in shards:
        relative = shard.relative_to(root)
        parts = (*relative.parts[:-1], relative.stem)
        names = [
            {SPLIT_NAMES[word] for word in re.findall("[a-z]+", part.lower()) if word in SPLIT_NAMES} for part in parts
        ]
        last = next((splits for splits in reversed(names) if splits), set())
        if len(last) > 1:
            raise UserError(f"{shard}: its name has several splits ({', '.join(sorted(last))}); rename it")
        found.append(next(iter(last), None))
    if not any(found):
        return np.zeros(len(shards), np.int8)
    if None in found:
        raise UserError(
            f"data.root={root}: the name of {shards[found.index(None)].relative_to(root)} has no split, but others do; "
            f"expected train, val or test in all names of {source} files, or in none"
        )
    return np.array([SPLITS.index(str(split)) for split in found], np.int8)


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
