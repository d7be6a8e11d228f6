"""Files of one split of token shards; their format is described in token_shards.py."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

ID_BYTES = 16
IDENTIFIER = re.compile("[0-9a-f]{32}")


class SplitWriter:
    """Appends documents to the shards of one split."""

    def __init__(
        self,
        directory: Path,
        name: str,
        dtype: np.dtype[np.unsignedinteger[Any]],
        shard_tokens: int,
    ) -> None:
        """Open the files.

        Args:
            name: beginning of the names of the files.
            shard_tokens: tokens of each shard but the last.
        """
        self._directory, self._name, self._dtype = directory, name, dtype
        self._shard_tokens = shard_tokens
        self._shard: BinaryIO | None = None
        self._identifiers: BinaryIO | None = None
        self._begins = [
            (self._directory / f"{name}-{what}.bin").open("wb") for what in ("tokens", "bytes")
        ]
        self.documents = self.tokens = self.bytes = 0
        self._write_begins()

    def add(self, ids: Sequence[int], text_bytes: int, identifier: str) -> None:
        """Append a document.

        Args:
            ids: tokens.
            text_bytes: size of the text in UTF-8.
            identifier: "" if the source has none.
        """
        left = np.asarray(ids, dtype=self._dtype)
        while len(left):
            place = self.tokens % self._shard_tokens
            if place == 0:
                if self._shard is not None:
                    self._shard.close()
                number = self.tokens // self._shard_tokens
                self._shard = (self._directory / f"{self._name}-{number:05d}.bin").open("wb")
            assert self._shard is not None
            # Documents may span shards.
            part, left = np.split(left, [min(len(left), self._shard_tokens - place)])
            self._shard.write(part.tobytes())
            self.tokens += len(part)
        if self._identifiers is None and identifier:
            self._identifiers = (self._directory / f"{self._name}-ids.bin").open("wb")
            self._identifiers.write(bytes(ID_BYTES * self.documents))
        if self._identifiers is not None:
            self._identifiers.write(id_bytes(identifier))
        self.documents, self.bytes = self.documents + 1, self.bytes + text_bytes
        self._write_begins()

    @property
    def counts(self) -> dict[str, float]:
        """Figures for the manifest."""
        per_token = self.bytes / self.tokens if self.tokens else 0.0
        return {
            "documents": self.documents,
            "tokens": self.tokens,
            "bytes": self.bytes,
            "bytes_per_token": per_token,
        }

    def close(self) -> None:
        """Close the files of the split."""
        for file in (*self._begins, self._shard, self._identifiers):
            if file is not None:
                file.close()

    def _write_begins(self) -> None:
        for file, begin in zip(self._begins, (self.tokens, self.bytes), strict=True):
            file.write(np.int64(begin).astype("<i8").tobytes())


def id_bytes(identifier: str) -> bytes:
    """Return the 16 bytes of an identifier in SPLIT-ids.bin; zeros stand for none."""
    if not identifier:
        return bytes(ID_BYTES)
    if IDENTIFIER.fullmatch(identifier):
        return bytes.fromhex(identifier)
    return hashlib.sha256(identifier.encode()).digest()[:ID_BYTES]
