"""Decoded bytes of gzip and Zstandard files, member by member, with damage isolated.

gzip calls the parts of a file members, Zstandard frames; each can be decoded without the others. A
damaged member ends early, and decoding goes on at the next one. Memory is bounded for any input.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import zstandard

from training.corpus.document import Stage, Verdict

READ_BYTES = 64 << 10
DECODED_BYTES = 256 << 10
# Text and HTML compress to a fifth, logs of identical lines to a hundredth. The limit applies to
# members that are already large, because a short page of spaces is harmless.
MAX_RATIO = 200
RATIO_FROM_BYTES = 64 << 20
# Largest window that `zstd -d` accepts without further options.
MAX_WINDOW_BYTES = 128 << 20
# A block of 4 bytes can stand for 128 KiB, so short inputs bound the output of one call (64 MiB).
ZSTD_INPUT_BYTES = 2 << 10
TRIAL_BYTES = 4 << 10
SALVAGE_BYTES = 8


class DamagedMemberError(Exception):
    """Error in the compressed data.

    Args:
        rule: rule of the verdict on the record that it interrupts.
        decoded: data before the error.
    """

    def __init__(self, rule: str, value: str, decoded: bytes = b"") -> None:
        super().__init__(rule)
        self.verdict = Verdict(Stage.READ, rule, value)
        self.decoded = decoded


class WindowError(DamagedMemberError):
    """Error for a frame that is valid but needs too much memory."""


class Decoder(Protocol):
    """Decoder for one member.

    Attributes:
        ended: True after the last byte of the member.
    """

    ended: bool

    def decode(self, data: bytes) -> tuple[bytes, bytes]:
        """Return decoded bytes and the rest of `data`, to be passed again unless `ended`.

        Raises:
            DamagedMemberError: the data is not valid.
        """
        ...


class GzipDecoder:
    """Decoder for a gzip member (RFC 1952)."""

    magic = b"\x1f\x8b\x08"

    def __init__(self) -> None:
        self._decoder = zlib.decompressobj(wbits=31)
        self.ended = False

    def decode(self, data: bytes) -> tuple[bytes, bytes]:
        before = self._decoder.copy()
        try:
            decoded = self._decoder.decompress(data, DECODED_BYTES)
        except zlib.error as error:
            raise DamagedMemberError("gzip", "damaged", _decode_start(before, data)) from error
        self.ended = self._decoder.eof
        return decoded, self._decoder.unused_data or self._decoder.unconsumed_tail


def _decode_start(decoder: zlib._Decompress, data: bytes) -> bytes:
    """Decode up to the error, so that the URL in front of it is known."""
    decoded = b""
    try:
        for place in range(0, len(data), SALVAGE_BYTES):
            decoded += decoder.decompress(data[place : place + SALVAGE_BYTES], DECODED_BYTES)
    except zlib.error:
        pass
    return decoded


class ZstdDecoder:
    """Decoder for a Zstandard frame (RFC 8878).

    Args:
        dictionary: dictionary of the file; b"" if it has none.
    """

    magic = b"\x28\xb5\x2f\xfd"

    def __init__(self, dictionary: bytes = b"") -> None:
        known = zstandard.ZstdCompressionDict(dictionary) if dictionary else None
        self._decoder = zstandard.ZstdDecompressor(
            dict_data=known, max_window_size=MAX_WINDOW_BYTES
        ).decompressobj()
        self._is_first = True
        self.ended = False

    def decode(self, data: bytes) -> tuple[bytes, bytes]:
        if self._is_first:
            self._is_first = False
            self._check_window(data)
        part, rest = data[:ZSTD_INPUT_BYTES], data[ZSTD_INPUT_BYTES:]
        try:
            decoded = self._decoder.decompress(part)
        except zstandard.ZstdError as error:
            raise DamagedMemberError("zstd", "damaged") from error
        self.ended = self._decoder.eof
        return decoded, self._decoder.unused_data + rest

    def _check_window(self, data: bytes) -> None:
        try:
            window = zstandard.get_frame_parameters(data).window_size
        except zstandard.ZstdError:
            return  # a header at the end of the input, which the decoder reports
        if window > MAX_WINDOW_BYTES:
            raise WindowError(
                "zstd window", f"{window >> 20} MiB (at most {MAX_WINDOW_BYTES >> 20})"
            )


class MemberStream(io.RawIOBase):
    """Decoded bytes of a file up to the end of a member or of the undamaged data.

    A file without compression is a single member, in which `seek` works.

    Args:
        file: unbuffered file at its start.
        codec: class of the decoder; None without compression.
        joined: read over the ends of undamaged members, as readers of lines need.
        prefix: bytes at the start of each member, by which a member after damage is recognised.

    Attributes:
        damage: reason for the early end of the current member, or None.
    """

    def __init__(
        self,
        file: io.FileIO,
        codec: type[GzipDecoder] | type[ZstdDecoder] | None,
        joined: bool = False,
        prefix: bytes = b"",
    ) -> None:
        self.damage: Verdict | None = None
        self._file = file
        self._codec = codec
        self._joined = joined
        self._prefix = prefix
        self._dictionary = b""
        self._input = b""
        self._output = memoryview(b"")
        self._decoder: Decoder | None = None
        self._member_start = 0
        self._decoded_bytes = 0
        self._was_started = False
        # Becomes the damage after the data before it was read.
        self._failure: Verdict | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._codec is None

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def next_member(self) -> bool:
        """Go to the next member, after damage to the next that can be decoded; False at the end."""
        if self._codec is None:
            is_first, self._was_started = not self._was_started, True
            return is_first
        try:
            if self.damage is not None:
                self.damage = None
                return self._find_member()
            return self._start_member()
        except DamagedMemberError as error:
            self.damage = error.verdict
            return True

    def readinto(self, target: memoryview) -> int:  # type: ignore[override]
        if self._codec is None:
            return self._file.readinto(target) or 0
        while not self._output:
            if self._failure is not None:
                self.damage, self._failure = self._failure, None
                return 0
            try:
                if not self._decode():
                    return 0
            except DamagedMemberError as error:
                self._failure, self._decoder = error.verdict, None
                self._output = memoryview(error.decoded)
        part = self._output[: len(target)]
        target[: len(part)] = part
        self._output = self._output[len(part) :]
        return len(part)

    def _decode(self) -> bool:
        """Decode more bytes; False at the end of the member."""
        if self._decoder is None:
            if self.damage is not None or not self._joined or not self._start_member():
                return False
            assert self._decoder is not None
        if not self._input:
            self._fill()
        given = self._input
        decoded, self._input = self._decoder.decode(given)
        self._output = memoryview(decoded)
        self._decoded_bytes += len(decoded)
        self._check_ratio()
        if self._decoder.ended:
            self._decoder = None
        elif not given and not decoded:
            raise DamagedMemberError("truncated", "at the end of the file")
        return True

    def _fill(self) -> bool:
        read = self._file.read(READ_BYTES) or b""
        self._input += read
        return bool(read)

    def _position(self) -> int:
        return self._file.tell() - len(self._input)

    def _check_ratio(self) -> None:
        if self._decoded_bytes < RATIO_FROM_BYTES:
            return
        ratio = self._decoded_bytes // max(1, self._position() - self._member_start)
        if ratio > MAX_RATIO:
            raise DamagedMemberError("compression ratio", f"{ratio} (at most {MAX_RATIO})")

    def _start_member(self) -> bool:
        """Begin the member at the current position; False at the end of the file."""
        assert self._codec is not None
        # gzip files may be padded with zeros.
        while not (stripped := self._input.lstrip(b"\0")):
            self._input = b""
            if not self._fill():
                return False
        self._input = stripped
        while len(self._input) < 8 and self._fill():
            pass
        self._member_start = self._position()
        if self._codec is ZstdDecoder:
            while self._skip_frame():
                if not self._input:
                    return False
        self._begin()
        if not self._input.startswith(self._codec.magic):
            raise DamagedMemberError(
                self._codec.__name__.removesuffix("Decoder").lower(), "damaged"
            )
        return True

    def _begin(self) -> None:
        self._member_start = self._position()
        self._decoded_bytes = 0
        self._output = memoryview(b"")
        self._decoder = self._new_decoder()

    def _new_decoder(self) -> Decoder:
        return ZstdDecoder(self._dictionary) if self._codec is ZstdDecoder else GzipDecoder()

    def _skip_frame(self) -> bool:
        """Skip a skippable frame of Zstandard, or take the dictionary from it.

        The dictionary of a .warc.zst file is in a first frame with the number 0x184D2A5D
        (IIPC, "Zstandard in WARC"), itself perhaps compressed.
        """
        number = int.from_bytes(self._input[:4], "little")
        if not 0x184D2A50 <= number <= 0x184D2A5F:
            return False
        size = int.from_bytes(self._input[4:8], "little")
        start = self._position() + 8
        if number == 0x184D2A5D and size <= MAX_WINDOW_BYTES:
            self._file.seek(start)
            content = self._file.read(size) or b""
            if content.startswith(ZstdDecoder.magic):
                try:
                    content = zstandard.ZstdDecompressor().decompress(
                        content, max_output_size=MAX_WINDOW_BYTES
                    )
                except zstandard.ZstdError as error:
                    raise DamagedMemberError("zstd", "damaged dictionary") from error
            self._dictionary = content
        self._file.seek(start + size)
        self._input = b""
        while len(self._input) < 8 and self._fill():
            pass
        return True

    def _find_member(self) -> bool:
        """Search the file after the start of the damaged member for another one."""
        assert self._codec is not None
        magic = self._codec.magic
        # A damaged header or block may have taken the bytes of further members for its own.
        self._file.seek(self._member_start + 1)
        self._input = b""
        while self._fill():
            while (place := self._input.find(magic)) >= 0:
                self._input = self._input[place:]
                while len(self._input) < TRIAL_BYTES and self._fill():
                    pass
                if self._is_member():
                    self._begin()
                    return True
                self._input = self._input[1:]
            self._input = self._input[-(len(magic) - 1) :]
        return False

    def _is_member(self) -> bool:
        """Decode the start of a candidate: the magic bytes may be part of compressed data."""
        try:
            decoded, _ = self._new_decoder().decode(self._input[:TRIAL_BYTES])
        except WindowError:
            return True
        except DamagedMemberError:
            return False
        # Zstandard decodes blocks as a whole, perhaps longer than the trial.
        return not decoded or decoded.startswith(self._prefix)


@contextmanager
def open_members(file: Path, joined: bool = False, prefix: bytes = b"") -> Iterator[MemberStream]:
    """Open a file, compressed or not, by its first bytes or else by the ending of its name.

    Args:
        joined: see `MemberStream`.
        prefix: see `MemberStream`.
    """
    with file.open("rb", buffering=0) as opened:
        start = opened.read(4) or b""
        opened.seek(0)
        is_skippable = start[1:] == b"\x2a\x4d\x18"
        is_plain = bool(prefix) and prefix.startswith(start)
        codec: type[GzipDecoder] | type[ZstdDecoder] | None = None
        if start == ZstdDecoder.magic or is_skippable or file.suffix == ".zst":
            codec = ZstdDecoder
        elif start.startswith(GzipDecoder.magic) or (file.suffix == ".gz" and not is_plain):
            codec = GzipDecoder
        yield MemberStream(opened, codec, joined, prefix)
