"""Reads the operators of a DALI pipeline without building it, which for a GPU pipeline would need the GPU."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Operator:
    """One operator of a pipeline: `inputs` and `outputs` are names of data, without argument inputs."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    arguments: dict[str, Any]

    @property
    def device(self) -> str:
        return str(self.arguments["device"])


def pipeline_operators(pipeline: Any) -> list[Operator]:
    """The operators of an `nvidia.dali.Pipeline`, each after those that give its inputs."""
    pipeline._device_id = None  # DALI serializes a pipeline without a device even if there is no GPU
    return [_operator(message) for field, message in _fields(pipeline.serialize()) if field == 5]


def _operator(message: bytes) -> Operator:
    """Parse DALI's message OpDef: 1 is the name, 2 an input, 3 an output, 4 an argument."""
    parts: dict[int, list[Any]] = {1: [], 2: [], 3: [], 4: []}
    for field, value in _fields(message):
        parts.setdefault(field, []).append(value)
    inputs = [dict(_fields(part)) for part in parts[2]]  # 1 is the name, 3 is whether it is an argument input
    arguments = [dict(_fields(part)) for part in parts[4]]  # 1 is the name, 3 a float, 4 an int, 5 a str, 6 a bool
    return Operator(
        name=parts[1][0].decode(),
        inputs=tuple(part[1].decode() for part in inputs if not part.get(3)),
        outputs=tuple(dict(_fields(part))[1].decode() for part in parts[3]),
        arguments={part[1].decode(): _value(part) for part in arguments},
    )


def _value(argument: dict[int, Any]) -> Any:
    if 3 in argument:
        return struct.unpack("<f", argument[3])[0]
    value = next((argument[field] for field in (4, 5, 6) if field in argument), None)
    return value.decode() if isinstance(value, bytes) else value


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """The (field number, value) pairs of a message in the protobuf wire format."""
    position = 0

    def varint() -> int:
        nonlocal position
        value = shift = 0
        while True:
            byte = message[position]
            position, value, shift = position + 1, value | (byte & 0x7F) << shift, shift + 7
            if byte < 0x80:
                return value

    while position < len(message):
        tag = varint()
        size = {0: 0, 1: 8, 2: 0, 5: 4}[tag & 7]
        if tag & 7 == 0:
            yield tag >> 3, varint()
            continue
        size = size or varint()
        yield tag >> 3, message[position : position + size]
        position += size
