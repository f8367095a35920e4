"""Counter-based random numbers: each number is a function of its stream, seed, epoch, image and column.

There is no generator state, so the numbers of an image do not depend on its batch, its worker or the loader. They are
also the same with every version of NumPy, whose own generators may change their streams. The mixing function is
SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

# One stream per use, so that two uses of the same seed get independent numbers.
SPLIT_STREAM, SHUFFLE_STREAM, AUGMENT_STREAM, IMAGE_STREAM, BALANCE_STREAM = range(5)  # the last, plus the class

_GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)  # 2^64 divided by the golden ratio
_MIX1, _MIX2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def uniform(
    stream: int, seed: int, epoch: int, indices: npt.ArrayLike, columns: int | Sequence[int]
) -> npt.NDArray[np.float64]:
    """Uniform random numbers in [0, 1), shape (N, columns), for the N image `indices`.

    Row n depends on `indices[n]` only, not on the other rows. `columns` is the number of columns or a list of column
    numbers. `seed` and `epoch` are any integers, taken modulo 2^64.
    """
    return uniform_columns(row_keys(stream, seed, epoch, indices), columns)


def row_keys(stream: int, seed: int, epoch: int, indices: npt.ArrayLike) -> npt.NDArray[np.uint64]:
    """Keys (N, 1) of the N images, for `uniform_columns`; a selection of rows gives the numbers of those images."""
    key = _epoch_key(stream, int(seed) % 2**64, int(epoch) % 2**64)
    return _splitmix64(key, np.asarray(indices, np.int64).astype(np.uint64)[:, None])


def uniform_columns(keys: npt.NDArray[np.uint64], columns: int | Sequence[int]) -> npt.NDArray[np.float64]:
    """The numbers of `uniform` for the images whose `row_keys` are given."""
    column_numbers = np.arange(columns) if isinstance(columns, int) else np.asarray(columns)
    bits = _splitmix64(keys, column_numbers.astype(np.uint64)[None, :])  # (N, columns)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permutation(stream: int, seed: int, epoch: int, size: int) -> npt.NDArray[np.int64]:
    """A random permutation of 0 to `size` - 1, determined by (stream, seed, epoch, size)."""
    return np.argsort(uniform(stream, seed, epoch, np.arange(size), 1)[:, 0], kind="stable").astype(np.int64)


@lru_cache(maxsize=64)
def _epoch_key(*numbers: int) -> npt.NDArray[np.uint64]:
    key = np.zeros((1, 1), np.uint64)  # an array: NumPy warns when a uint64 scalar overflows, but not for arrays
    for number in numbers:
        key = _splitmix64(key, np.array([[number]], np.uint64))
    return key


def _splitmix64(key: npt.NDArray[np.uint64], number: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Mix `number` into `key`: output number `number` of SplitMix64 seeded with `key`. Both broadcast, modulo 2^64."""
    bits = key + (number + np.uint64(1)) * _GOLDEN_GAMMA
    bits ^= bits >> np.uint64(30)
    bits *= _MIX1
    bits ^= bits >> np.uint64(27)
    bits *= _MIX2
    bits ^= bits >> np.uint64(31)
    return bits
