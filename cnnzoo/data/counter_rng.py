"""Random numbers by counter: each is a function of where it is used, never of what was drawn before it.

One image's numbers therefore do not depend on its batch, its worker or the loader, and they are the same with every
version of NumPy (whose generators may change their streams). The mixing function is SplitMix64's (Steele, Lea and
Flood, "Fast splittable pseudorandom number generators", 2014).
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

# Who draws: so that two uses of the same seed have nothing in common.
SPLIT_STREAM, SHUFFLE_STREAM, AUGMENT_STREAM, IMAGE_STREAM = range(4)

_GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)  # 2^64 divided by the golden ratio
_MIX1, _MIX2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def uniform(
    use: int, seed: int, epoch: int, indices: npt.ArrayLike, columns: int | Sequence[int]
) -> npt.NDArray[np.float64]:
    """Numbers in [0, 1), (N, columns): row n belongs to `indices[n]` alone, column c to `columns[c]` alone.

    `columns` is how many, or which ones. `seed` and `epoch` may be any integers (taken modulo 2^64).
    """
    which = np.arange(columns) if isinstance(columns, int) else np.asarray(columns)
    key = np.zeros((1, 1), np.uint64)  # arrays all the way: NumPy wraps them in silence, and warns of scalars
    for number in (use, seed, epoch):
        key = _splitmix64(key, np.array([[int(number) % 2**64]], np.uint64))
    rows = _splitmix64(key, np.asarray(indices, np.int64).astype(np.uint64)[:, None])  # (N, 1)
    bits = _splitmix64(rows, which.astype(np.uint64)[None, :])  # (N, columns)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permutation(use: int, seed: int, epoch: int, size: int) -> npt.NDArray[np.int64]:
    """0 to `size` - 1, each once, in an order that only (use, seed, epoch, size) decide."""
    return np.argsort(uniform(use, seed, epoch, np.arange(size), 1)[:, 0], kind="stable").astype(np.int64)


def _splitmix64(key: npt.NDArray[np.uint64], number: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """One step of SplitMix64 from `key`, `number` counted in; both broadcast, overflow wraps as it should."""
    bits = key + (number + np.uint64(1)) * _GOLDEN_GAMMA
    bits = (bits ^ (bits >> np.uint64(30))) * _MIX1
    bits = (bits ^ (bits >> np.uint64(27))) * _MIX2
    return bits ^ (bits >> np.uint64(31))
