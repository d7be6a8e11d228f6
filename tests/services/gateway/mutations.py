"""Mutated requests, reproducible from a seed.

Valid messages have flipped, cut, doubled or mixed bytes, or fields with extreme values.
"""

import random
from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

UUID = "018f0000-0000-7000-8000-000000000000"
TEXTS = (
    "",
    "hello",
    "one",
    "thumb",
    UUID,
    UUID.upper(),
    "\0",
    "\u202e\u0000\ufffe",
    "é" * 33,
    "😀" * 4_097,
    "x" * 65,
    "x" * 40_000,
    "{{7*7}}",
    "' OR 1=1 --",
    "../../etc/passwd",
)
INTEGERS = (0, 1, 2, 100, 101, 2**31 - 1, 2**32 - 1)
BIG_INTEGERS = (*INTEGERS, 2**63 - 1, 2**64 - 1)
FLOATS = (0.0, 0.5, -1.0, 2.5, 1e38, -1e-38, float("nan"), float("inf"), float("-inf"))
WIRE_BYTES = (
    b"\x00",
    b"\xff",
    b"\x80" * 11,
    b"\xff\xff\xff\xff\x0f",
    b"\x08",
    b"\x0a",
    b"\xfb\x00",
)


def mutants(right: Message, seed: int, count: int) -> Iterator[bytes]:
    """Yield serialised mutants of a valid request, identical for the same seed."""
    randomness = random.Random(f"{right.DESCRIPTOR.full_name} {seed}")
    last = right.SerializeToString()
    for _ in range(count):
        message = GetMessageClass(right.DESCRIPTOR)()
        message.CopyFrom(right)
        for field in right.DESCRIPTOR.fields:
            if randomness.random() < 0.2:
                _fill(message, field, randomness, 0)
        data = message.SerializeToString()
        if randomness.random() < 0.6:
            for _ in range(randomness.randint(1, 4)):
                data = _turned(data, last, randomness)
        yield data
        last = data


def _message(descriptor: Descriptor, randomness: random.Random, depth: int) -> Message:
    message = GetMessageClass(descriptor)()
    for field in descriptor.fields:
        if randomness.random() < 0.4:
            _fill(message, field, randomness, depth)
    return message


def _fill(message: Message, field: FieldDescriptor, randomness: random.Random, depth: int) -> None:
    if field.message_type is not None:
        part = _message(field.message_type, randomness, depth + 1)
        if field.is_repeated:
            most = 201 if part.ByteSize() < 1_000 else 2
            getattr(message, field.name).extend([part] * randomness.choice((1, 2, most)))
        else:
            getattr(message, field.name).CopyFrom(part)
    elif field.is_repeated:
        getattr(message, field.name).extend(
            _value(field, randomness) for _ in range(randomness.choice((1, 4, 9)))
        )
    else:
        setattr(message, field.name, _value(field, randomness))


def _value(field: FieldDescriptor, randomness: random.Random) -> Any:
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING:
            return randomness.choice(TEXTS)
        case FieldDescriptor.CPPTYPE_BOOL:
            return randomness.random() < 0.5
        case FieldDescriptor.CPPTYPE_FLOAT | FieldDescriptor.CPPTYPE_DOUBLE:
            return randomness.choice(FLOATS)
        case FieldDescriptor.CPPTYPE_ENUM:
            return randomness.choice((0, 1, 2, 99, -1, 2**31 - 1))
        case FieldDescriptor.CPPTYPE_UINT64 | FieldDescriptor.CPPTYPE_INT64:
            return randomness.choice(
                INTEGERS if field.cpp_type == FieldDescriptor.CPPTYPE_INT64 else BIG_INTEGERS
            )
        case _:
            return randomness.choice(INTEGERS[:-1])


def _turned(data: bytes, other: bytes, randomness: random.Random) -> bytes:
    at, end = sorted((randomness.randint(0, len(data)), randomness.randint(0, len(data))))
    match randomness.randrange(7):
        case 0:
            return data[:at] + bytes([randomness.randrange(256)]) + data[at + 1 :]
        case 1:
            return data[:at] + randomness.choice(WIRE_BYTES) + data[at:]
        case 2:
            return data[:at] + data[min(end, at + 16) :]
        case 3:
            return data[:at]
        case 4:
            return data[:end] + data[at:]
        case 5:
            return data[:at] + other[at:]
        case _:
            return bytes(
                byte ^ (1 << randomness.randrange(8)) if randomness.random() < 0.02 else byte
                for byte in data
            )
