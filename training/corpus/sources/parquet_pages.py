"""Sizes of the pages in a column chunk of Parquet, read from their headers.

Arrow allocates a page as a whole, and a file of 100 KB can hold a page of a gigabyte. The sizes are
only in the page headers, in Thrift's compact protocol.
"""

from __future__ import annotations

from typing import BinaryIO

HEADER_BYTES = 4 << 10
# Arrow's own limit for a page header.
MAX_HEADER_BYTES = 16 << 20
MAX_DEPTH = 16

# Types of the compact protocol.
STOP, TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = range(13)
# Fields of PageHeader.
UNCOMPRESSED_SIZE, COMPRESSED_SIZE = 2, 3


class PageHeaderError(ValueError):
    """Error for bytes that are no page header."""


def largest_page(file: BinaryIO, start: int, length: int) -> int:
    """Return the size in bytes of the largest page of a column chunk, decompressed.

    Args:
        start: place of the first page in the file.
        length: size of the chunk in the file.

    Raises:
        PageHeaderError: a header is malformed.
    """
    largest = 0
    place = start
    while place < start + length:
        sizes, header_length = _read_header(file, place)
        try:
            uncompressed, compressed = sizes[UNCOMPRESSED_SIZE], sizes[COMPRESSED_SIZE]
        except KeyError as error:
            raise PageHeaderError("no sizes") from error
        if uncompressed < 0 or compressed < 0:
            raise PageHeaderError("negative size")
        largest = max(largest, uncompressed)
        place += header_length + compressed
    return largest


def _read_header(file: BinaryIO, place: int) -> tuple[dict[int, int], int]:
    """Return the integers of a page header by field, and its length."""
    size = HEADER_BYTES
    while size <= MAX_HEADER_BYTES:
        file.seek(place)
        content = file.read(size)
        reader = _CompactReader(content)
        try:
            return reader.read_struct(0), reader.place
        except IndexError as error:
            if len(content) < size:
                raise PageHeaderError("end of file") from error
        # Statistics may hold long texts.
        size *= 16
    raise PageHeaderError("too long")


class _CompactReader:
    """Reader for Thrift's compact protocol; IndexError at the end of the bytes."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.place = 0

    def read_struct(self, depth: int) -> dict[int, int]:
        """Return the integers of a struct by field; other values are skipped."""
        if depth > MAX_DEPTH:
            raise PageHeaderError("nested too deep")
        numbers = {}
        field = 0
        while (head := self._byte()) & 15 != STOP:
            field = field + (head >> 4) if head >> 4 else self._number()
            if head & 15 in (I16, I32, I64):
                numbers[field] = self._number()
            elif head & 15 not in (TRUE, FALSE):
                self._skip(head & 15, depth)
        return numbers

    def _skip(self, kind: int, depth: int) -> None:
        if kind in (TRUE, FALSE, BYTE):
            self._advance(1)  # as an element of a list
        elif kind in (I16, I32, I64):
            self._varint()
        elif kind == DOUBLE:
            self._advance(8)
        elif kind == BINARY:
            self._advance(self._varint())
        elif kind in (LIST, SET):
            head = self._byte()
            count = head >> 4 if head >> 4 != 15 else self._varint()
            for _ in range(count):
                self._skip(head & 15, depth + 1)
        elif kind == STRUCT:
            self.read_struct(depth + 1)
        else:
            # No page header has a map.
            raise PageHeaderError("unknown type")

    def _byte(self) -> int:
        value = self._content[self.place]
        self.place += 1
        return value

    def _advance(self, count: int) -> None:
        self.place += count
        if self.place > len(self._content):
            raise IndexError

    def _varint(self) -> int:
        value = shift = 0
        while (part := self._byte()) & 128:
            value |= (part & 127) << shift
            shift += 7
            if shift > 63:
                raise PageHeaderError("number too long")
        return value | part << shift

    def _number(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)
