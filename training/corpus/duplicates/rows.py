"""Files with a fixed-size row for each document: order key, id, digest and signature.

Workers write one file each, in parallel. A file appears whole, by a rename, so that an interrupted
worker leaves no part of one.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from durable_files.files import publish
from training.corpus.document import ID_DIGITS, CorpusError
from training.corpus.duplicates.exact import DIGEST_BYTES, digest
from training.corpus.duplicates.minhash import (
    FINEWEB,
    MinHashConfig,
    Signatures,
    signature_matrix,
)
from training.data.corpus import batches

Rows = npt.NDArray[np.void]

MAGIC = b"TWROWS1\0"
HEADER = np.dtype([("magic", "S8"), ("config", "<u8", (4,))])
BATCH_ROWS = 4096
# Texts of a batch for rensa, so that few large texts need little memory.
BATCH_CHARACTERS = 4_000_000
KEY_DIGITS = 8  # hexadecimal; half of an order key


class Row(NamedTuple):
    """Fields of a document that the search for duplicates reads.

    Attributes:
        id: 32 hexadecimal digits, as from `record_id`.
        order: 0 to 2^64 - 1. The document with the lowest order is kept, at equal orders that with
            the lowest id.
        digest: from `exact.digest`.
        signature: from `minhash.signatures`, as an array or its bytes.
    """

    id: str
    order: int
    digest: bytes
    signature: Signatures | bytes


def order_key(id: str, others: str = "") -> int:
    """Return the order key of a document: 32 bits of its id, which is a hash, and 32 of `others`.

    The kept document depends neither on the layout of files nor on the number of workers, and no
    source or host is preferred.

    Args:
        others: further columns, by which one of several records with the same id is kept.
    """
    return int(id[:KEY_DIGITS] + hashlib.sha256(others.encode()).hexdigest()[:KEY_DIGITS], 16)


def rows_of(
    documents: Iterable[tuple[str, str] | tuple[str, str, str]], config: MinHashConfig = FINEWEB
) -> Iterator[Row]:
    """Yield a row for each id and text, perhaps with `others` of `order_key`, in order."""
    for batch in batches(documents, lambda one: len(one[1]), BATCH_CHARACTERS, BATCH_ROWS):
        matrix = signature_matrix([one[1] for one in batch], config)
        for (id, text, *others), signature in zip(batch, matrix, strict=True):
            yield Row(id, order_key(id, *others), digest(text), signature)


def write_rows(path: Path, rows: Iterable[Row], config: MinHashConfig = FINEWEB) -> None:
    """Write a file of rows, whole and durably; its content depends on the rows alone.

    Raises:
        CorpusError: an id, an order, a digest or a signature has another form.
    """
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("wb") as file:
        np.array((MAGIC, _numbers(config)), dtype=HEADER).tofile(file)
        remaining = iter(rows)
        while batch := list(itertools.islice(remaining, BATCH_ROWS)):
            _packed(batch, config).tofile(file)
    publish(partial, path)


def read_rows(paths: Sequence[Path], config: MinHashConfig = FINEWEB) -> Iterator[Rows]:
    """Yield the rows of files in batches.

    Raises:
        CorpusError: a file is no file of rows, or its signatures have other settings.
    """
    dtype = row_dtype(config)
    for path in paths:
        with path.open("rb") as file:
            _check_header(file, path, config)
            while len(batch := np.fromfile(file, dtype, BATCH_ROWS)):
                yield batch


def read_signatures(
    paths: Sequence[Path], positions: npt.NDArray[np.integer[Any]], config: MinHashConfig = FINEWEB
) -> Signatures:
    """Return the signatures of rows of files: [positions, bands * band_hashes].

    The files are mapped for this call only, so pages of them do not stay in memory.

    Args:
        positions: numbers of rows, counted over all files from 0.
    """
    dtype = row_dtype(config)
    counts = [(path.stat().st_size - HEADER.itemsize) // dtype.itemsize for path in paths]
    ends = np.cumsum(counts)
    owners = np.searchsorted(ends, positions, side="right")
    found = np.empty((len(positions), config.hashes), dtype=np.uint32)
    for file in np.unique(owners):
        own = owners == file
        rows = np.memmap(paths[file], dtype=dtype, mode="r", offset=HEADER.itemsize)
        found[own] = rows["signature"][positions[own] - (ends[file] - counts[file])]
    return found


def row_dtype(config: MinHashConfig) -> np.dtype[Any]:
    """Return the type of a row."""
    return np.dtype(
        [
            ("order", "<u8"),
            ("id_high", "<u8"),
            ("id_low", "<u8"),
            ("digest_high", "<u8"),
            ("digest_low", "<u8"),
            ("signature", "<u4", (config.hashes,)),
        ]
    )


def _packed(batch: Sequence[Row], config: MinHashConfig) -> Rows:
    signature_bytes = config.hashes * np.dtype(np.uint32).itemsize
    signatures = [
        row.signature
        if isinstance(row.signature, bytes)
        else row.signature.astype("<u4", copy=False).tobytes()
        for row in batch
    ]
    for row, signature in zip(batch, signatures, strict=True):
        _check("digest", len(row.digest) == DIGEST_BYTES, f"{DIGEST_BYTES} bytes")
        _check("signature", len(signature) == signature_bytes, f"{signature_bytes} bytes")
        _check("id", len(row.id) == ID_DIGITS, f"{ID_DIGITS} hexadecimal digits")
        _check("order", 0 <= row.order < 2**64, "0 to 2^64 - 1")
    packed = np.empty(len(batch), dtype=row_dtype(config))
    packed["order"] = np.array([row.order for row in batch], dtype=np.uint64)
    try:
        ids = bytes.fromhex("".join(row.id for row in batch))
    except ValueError:
        _check("id", False, f"{ID_DIGITS} hexadecimal digits")
    for name, joined in (("id", ids), ("digest", b"".join(row.digest for row in batch))):
        halves = np.frombuffer(joined, dtype=">u8").reshape(-1, 2)
        packed[f"{name}_high"], packed[f"{name}_low"] = halves[:, 0], halves[:, 1]
    packed["signature"] = np.frombuffer(b"".join(signatures), dtype="<u4").reshape(
        -1, config.hashes
    )
    return packed


def _check(field: str, valid: bool, limit: str) -> None:
    if not valid:
        raise CorpusError(f"{field} of a row must be {limit}", field=field, limit=limit)


def _numbers(config: MinHashConfig) -> tuple[int, int, int, int]:
    return config.ngram, config.bands, config.band_hashes, config.seed


def _check_header(file: BinaryIO, path: Path, config: MinHashConfig) -> None:
    size = path.stat().st_size - HEADER.itemsize
    header = np.fromfile(file, HEADER, 1)
    if not len(header) or header["magic"][0] != MAGIC.rstrip(b"\0"):
        raise CorpusError(f"{path.name} is no file of rows", field=path.name)
    found = tuple(int(number) for number in header["config"][0])
    if found != _numbers(config):
        raise CorpusError(
            f"{path.name}: signatures with n-gram, bands, hashes, seed {found},"
            f" expected {_numbers(config)}",
            field=path.name,
            limit=str(_numbers(config)),
        )
    if size % row_dtype(config).itemsize:
        raise CorpusError(f"{path.name} ends within a row", field=path.name, reason="TRUNCATED")
