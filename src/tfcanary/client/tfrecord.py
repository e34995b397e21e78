"""
TFRecord files: each record has its length, and a checksum of the length and of the content.
"""

import struct
from collections.abc import Iterator
from functools import cache
from typing import BinaryIO

_POLYNOMIAL = 0x82F63B78
_HEAD, _SUM = struct.Struct("<QI"), struct.Struct("<I")


def records(file: BinaryIO, most_bytes: int) -> Iterator[bytes]:
    """
    The content of each record.

    Args:
        file: at the start of a record.
        most_bytes: the largest record.

    Raises:
        ValueError: with the record's number, if one is cut short, too large or does not have its checksum.
    """
    number = 0
    while head := file.read(_HEAD.size):
        number += 1
        if len(head) < _HEAD.size:
            raise ValueError(f"record {number}: cut short")
        length, checksum = _HEAD.unpack(head)
        if masked_crc32c(head[:8]) != checksum:
            raise ValueError(
                f"record {number}: its length does not have its checksum; is it a TFRecord file?"
            )
        if length > most_bytes:
            raise ValueError(f"record {number}: {length} bytes, expected at most {most_bytes}")
        content, end = file.read(length), file.read(_SUM.size)
        if len(content) < length or len(end) < _SUM.size:
            raise ValueError(f"record {number}: cut short")
        if masked_crc32c(content) != _SUM.unpack(end)[0]:
            raise ValueError(f"record {number}: does not have its checksum")
        yield content


def masked_crc32c(content: bytes) -> int:
    """
    The checksum of TFRecord files: a CRC-32C, turned so that a checksum of a checksum is another number.
    """
    table = _table()
    crc = 0xFFFFFFFF
    for byte in content:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


@cache
def _table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = (crc >> 1) ^ (_POLYNOMIAL if crc & 1 else 0)
        table.append(crc)
    return tuple(table)
