"""The packed tensors of a network that was compressed by Deep Compression (Han et al., 2015, arXiv 1510.00149).

A packed weight consists of few distinct values and of zeros. Three one-dimensional tensors stand for it:

- `<name>.codebook`, float16 or float32: the values, at most 256;
- `<name>.codes`, uint8: for each weight that is not zero, in row-major order, the index of its value;
- `<name>.gaps`, uint8: for each of these weights the number of zeros before it. 255 stands for 255 zeros, which more
  zeros or a weight follow.

Codes and gaps are Huffman-coded (raw DEFLATE without matches). On bell-shaped weights this is within 2 % of the entropy
of the weights; LZMA needs 3 to 5 % more. The other tensors of the state dict keep their names. Floating-point tensors
are in float16, or in float32 if one of their values is too large for that.
"""

import math
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

FORMAT = 1
"""The version of the format, in the metadata."""
MAX_PARAMETERS = 160_000_000
"""The largest number of packed weights that is unpacked; VGG-19, the largest network of the zoo, has 144 million."""
MAX_VALUES = 256
"""The largest size of a codebook."""
MAX_GAP = 255
PARTS = ("codebook", "codes", "gaps")


def pack(state_dict: Mapping[str, Tensor], names: Iterable[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Pack the weights `names` of a state dict; returns the tensors of the file, and its metadata "compressed".

    Raises ValueError if one of these weights has more than 256 different values beside 0.
    """
    names, packed, shapes = set(names), {}, {}
    for name, tensor in state_dict.items():
        value = tensor.detach().cpu().contiguous()
        if name not in names:
            packed[name] = _to_float16(value)
            continue
        flat = value.flatten()
        positions = flat.nonzero()[:, 0]
        codebook, codes = flat[positions].unique(return_inverse=True)
        if len(codebook) > MAX_VALUES:
            raise ValueError(f"{name} has {len(codebook)} different values, expected at most {MAX_VALUES}")
        packed[f"{name}.codebook"] = _to_float16(codebook)
        packed[f"{name}.codes"] = _encode(codes)
        packed[f"{name}.gaps"] = _encode(_positions_to_gaps(positions))
        shapes[name] = list(value.shape)
    return packed, {"format": FORMAT, "shapes": shapes}


def unpack(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict that `pack` has packed; all floating-point tensors are float32.

    tensors: those of the file.
    metadata: has the entry "compressed", as `pack` returns it.

    Raises ValueError for a file that is damaged, or that was made to fill the memory.
    """
    shapes = _check_shapes(metadata.get("compressed"))
    parts = {f"{name}.{part}" for name in shapes for part in PARTS}
    if missing := parts - tensors.keys():
        raise ValueError(f"the tensor {min(missing)} is missing")
    state = {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in tensors.items()
        if name not in parts
    }
    for name, shape in shapes.items():
        try:
            state[name] = _unpack_weight(*(tensors[f"{name}.{part}"] for part in PARTS), size=math.prod(shape))
        except (ValueError, zlib.error) as error:
            raise ValueError(f"the weights {name}: {error}") from error
        state[name] = state[name].reshape(shape)
    return state


def _check_shapes(compressed: Any) -> dict[str, list[int]]:
    """The shapes in the metadata. Raises ValueError if they are none, or too large."""
    if not isinstance(compressed, Mapping) or compressed.get("format") != FORMAT:
        raise ValueError(f"its format is not {FORMAT}, the only one that this version of cnnzoo reads")
    shapes = compressed.get("shapes")
    if not isinstance(shapes, Mapping) or not all(_is_shape(shape) for shape in shapes.values()):
        raise ValueError("its metadata has no shapes of weights")
    if (total := sum(map(math.prod, shapes.values()))) > MAX_PARAMETERS:
        raise ValueError(f"it claims to have {total:,} weights, expected at most {MAX_PARAMETERS:,}")
    return dict(shapes)


def _is_shape(shape: Any) -> bool:
    return isinstance(shape, list) and len(shape) <= 8 and all(type(n) is int and n > 0 for n in shape)


def _unpack_weight(codebook: Tensor, codes: Tensor, gaps: Tensor, *, size: int) -> Tensor:
    """float32 (size,). Raises ValueError or zlib.error for tensors that do not fit together."""
    if codebook.ndim != 1 or len(codebook) > MAX_VALUES or not codebook.is_floating_point():
        raise ValueError("the codebook is not a list of numbers")
    indices, steps = _decode(codes, size), _decode(gaps, size)
    positions = _gaps_to_positions(steps)
    if len(positions) != len(indices):
        raise ValueError(f"{len(positions)} gaps and {len(indices)} codes do not fit together")
    flat = torch.zeros(size)
    if len(indices):
        if int(positions[-1]) >= size or int(indices.max()) >= len(codebook):
            raise ValueError("a code or a position is out of range")
        flat[positions] = codebook.float()[indices.int()]
    return flat


def _positions_to_gaps(positions: Tensor) -> Tensor:
    """Ascending positions (n,) -> gaps (n or more,) from 0 to `MAX_GAP`."""
    zeros = positions.diff(prepend=positions.new_tensor([-1])) - 1
    escapes = zeros // MAX_GAP  # entries before that of the weight
    gaps = torch.full((len(zeros) + int(escapes.sum()),), MAX_GAP)
    gaps[torch.arange(len(zeros)) + escapes.cumsum(0)] = zeros % MAX_GAP
    return gaps


def _gaps_to_positions(gaps: Tensor) -> Tensor:
    """The inverse of `_positions_to_gaps`."""
    is_weight = gaps != MAX_GAP
    return (gaps.long() + is_weight).cumsum(0)[is_weight] - 1


def _encode(values: Tensor) -> Tensor:
    """Integers from 0 to 255 -> uint8, Huffman-coded."""
    coder = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS, 9, zlib.Z_HUFFMAN_ONLY)
    data = coder.compress(values.to(torch.uint8).numpy().tobytes()) + coder.flush()
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def _decode(data: Tensor, max_length: int) -> Tensor:
    """The inverse of `_encode`; uint8. Raises ValueError or zlib.error unless there are at most `max_length` values."""
    if data.dtype != torch.uint8 or data.ndim != 1:
        raise ValueError("its data are not bytes")
    decoder = zlib.decompressobj(-zlib.MAX_WBITS)
    values = decoder.decompress(data.numpy().tobytes(), max_length + 1)  # one more, so that the end is reached
    if not decoder.eof or len(values) > max_length or decoder.unused_data:
        raise ValueError("its data do not end where they should")
    return torch.frombuffer(bytearray(values), dtype=torch.uint8) if values else torch.zeros(0, dtype=torch.uint8)


def _to_float16(tensor: Tensor) -> Tensor:
    """The tensor in float16 unless one of its values is out of range; integers stay as they are."""
    if not tensor.is_floating_point():
        return tensor
    half = tensor.half()
    return half if bool(half.isfinite().all()) else tensor
