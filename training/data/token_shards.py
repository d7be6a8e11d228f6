"""Tokenised corpora on disk, in flat binary shards of fixed length, read through memory maps.

A directory holds, for `train` and `held_out`, the files SPLIT-00000.bin and so on (little-endian
uint16, or uint32 for larger vocabularies; all documents end to end). SPLIT-tokens.bin and
SPLIT-bytes.bin (int64 [documents + 1]) hold the start of each document in tokens and in text bytes;
the bytes make bits per byte exact. SPLIT-ids.bin holds 16 bytes for each document: its identifier
in training/corpus, or a hash of another column `id`. The manifest is written last; interrupted
writing starts over.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from durable_files.files import DRAFT_PREFIX, make_directory
from training.artifacts.inputs import hash_once
from training.artifacts.manifest import (
    MANIFEST,
    Manifest,
    hash_file,
    plain,
    read_manifest,
    write_manifest,
)
from training.data.chat import load_chat
from training.data.corpus import batches, read_identified, text_files
from training.data.seeds import is_held_out
from training.data.split_writer import SplitWriter
from training.errors import DetailedError
from training.tokenization.text_tokenizer import open_tokenizer

KIND = "token_shards"
SHARDS_HASH = "shards_sha256"  # key of the data of a model's manifest
TRAIN, HELD_OUT = "train", "held_out"
BATCH_BYTES = 1 << 20  # amount of text per tokenizer call
SHARD_FILES = re.compile(
    rf"({TRAIN}|{HELD_OUT})-(\d+|tokens|bytes|ids)\.bin|{re.escape(DRAFT_PREFIX)}.*"
)
LARGEST_UINT16_VOCABULARY = 1 << 16


class ShardError(DetailedError, ValueError):
    """Error for shards that do not match the request; the message names the field or file."""

    reason = "INVALID_SHARDS"


@dataclass(frozen=True)
class ShardConfig:
    """Settings of token shards. `sources` are files of texts, or folders of them (corpus.py)."""

    sources: tuple[Path, ...]
    tokenizer_directory: Path
    output_directory: Path
    held_out_fraction: float = 0.01  # share of the distinct texts, by hash
    # start token per document, so that the first text token is predicted
    begin_documents: bool = True
    # True: control tokens in a text are parsed, as in rendered chats; False: "<|end|>" is plain
    # text
    control_tokens: bool = False
    shard_tokens: int = 1 << 26
    seed: int = 0
    licence: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.held_out_fraction < 1:
            raise ShardError(
                f"held_out_fraction: {self.held_out_fraction} is not in [0, 1)",
                field="held_out_fraction",
                reason="OUT_OF_RANGE",
                limit="[0, 1)",
            )
        if self.shard_tokens < 1:
            raise ShardError(
                f"shard_tokens: {self.shard_tokens} is not at least 1",
                field="shard_tokens",
                reason="OUT_OF_RANGE",
                limit="at least 1",
            )


@dataclass(frozen=True)
class TokenisationProgress:
    """Progress of the tokenisation."""

    read_bytes: int
    all_bytes: int
    documents: int
    tokens: int


def write_shards(
    config: ShardConfig, on_progress: Callable[[TokenisationProgress], None] = lambda _: None
) -> Manifest:
    """Tokenise all texts in order; finished shards of the same texts and settings are reused.

    Raises:
        TextError: a text cannot be read.
        ShardError: output_directory holds other shards or foreign files.
    """
    files = text_files(config.sources)
    # The settings that determine the tokens, without local paths.
    kept = {name: value for name, value in plain(config).items() if not name.endswith("_directory")}
    settings = kept | {
        "sources": [[file.name, hash_once(file)] for file in files],
        "tokenizer_sha256": hash_file(config.tokenizer_directory / "tokenizer.json"),
    }
    if (config.output_directory / MANIFEST).exists():
        return _reuse(config.output_directory, settings)
    _clear(config.output_directory)
    encode = _Encoder(config)
    dtype = np.dtype("<u4" if encode.vocabulary > LARGEST_UINT16_VOCABULARY else "<u2")
    with ExitStack() as stack:
        splits = {
            name: stack.enter_context(
                closing(SplitWriter(config.output_directory, name, dtype, config.shard_tokens))
            )
            for name in (TRAIN, HELD_OUT)
        }
        sizes = [file.stat().st_size for file in files]
        for done, file in enumerate(files):
            for batch in batches(read_identified(file), lambda one: len(one[0]), BATCH_BYTES):
                tokens = encode([text for text, _ in batch])
                for (text, identifier), ids in zip(batch, tokens, strict=True):
                    content = text.encode()
                    held = holds_out(content, config.held_out_fraction, config.seed)
                    splits[HELD_OUT if held else TRAIN].add(ids, len(content), identifier)
                on_progress(_progress(sizes, done, splits))
        on_progress(_progress(sizes, len(sizes), splits))
    counts = {name: split.counts for name, split in splits.items()}
    return write_manifest(
        config.output_directory,
        kind=KIND,
        version=config.output_directory.name,
        config=settings,
        seeds={"held_out": config.seed},
        report=counts
        | {"vocabulary": encode.vocabulary, "begin_ids": encode.begin_ids, "dtype": dtype.name},
        licence=config.licence,
    )


def holds_out(content: bytes, fraction: float, seed: int = 0) -> bool:
    """Return True if shards with this fraction and seed hold out the text with this content."""
    return is_held_out(hashlib.sha256(content).hexdigest(), fraction, seed)


@dataclass(frozen=True)
class TokenStream:
    """Documents of one split end to end, read from disk on access."""

    shards: tuple[npt.NDArray[np.unsignedinteger[Any]], ...]
    shard_tokens: int
    token_begins: npt.NDArray[np.int64]  # start of each document, and the end
    byte_begins: npt.NDArray[np.int64]  # the same in UTF-8 bytes

    @property
    def documents(self) -> int:
        """Number of documents in the split."""
        return len(self.token_begins) - 1

    @property
    def tokens(self) -> int:
        """Number of tokens in the split."""
        return int(self.token_begins[-1])

    @property
    def bytes(self) -> int:
        """Number of text bytes (UTF-8) in the split."""
        return int(self.byte_begins[-1])

    def read(self, start: int, stop: int) -> npt.NDArray[np.int64]:
        """Return the token ids at positions [start, stop)."""
        parts = []
        while start < stop:
            shard, offset = divmod(start, self.shard_tokens)
            chunk = self.shards[shard][offset : offset + stop - start]
            parts.append(chunk.astype(np.int64))
            start += len(chunk)
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def documents_at(self, start: int, stop: int) -> npt.NDArray[np.int64]:
        """Return the document number, from 1, at each position in [start, stop)."""
        return np.searchsorted(self.token_begins, np.arange(start, stop), side="right")

    def first(self, tokens: int) -> TokenStream:
        """Return the first whole documents with at most `tokens` tokens, at least one document."""
        count = max(1, int(np.searchsorted(self.token_begins, tokens, side="right")) - 1)
        return replace(
            self,
            token_begins=self.token_begins[: count + 1],
            byte_begins=self.byte_begins[: count + 1],
        )


@dataclass(frozen=True)
class Shards:
    """Both splits, and the ids at the start of each document."""

    train: TokenStream
    held_out: TokenStream
    begin_ids: tuple[int, ...]
    vocabulary: int


def open_shards(directory: Path, tokenizer_directory: Path) -> Shards:
    """Open shards written by `write_shards`.

    Raises:
        ManifestError: the directory is incomplete.
        ShardError: the directory is of another kind, a file's length differs, or the tokenizer
            differs.
    """
    manifest = read_manifest(directory)
    if manifest.kind != KIND:
        raise ShardError(
            f"{directory.name}: is a {manifest.kind}, not {KIND}",
            field="kind",
            reason="MISMATCH",
            limit=KIND,
        )
    if manifest.config["tokenizer_sha256"] != hash_file(tokenizer_directory / "tokenizer.json"):
        raise ShardError(
            f"tokenizer_directory: {tokenizer_directory.name} differs from"
            f" the tokenizer of {directory.name}",
            field="tokenizer_directory",
            reason="MISMATCH",
        )
    train, held_out = (_open(directory, name, manifest) for name in (TRAIN, HELD_OUT))
    return Shards(
        train, held_out, tuple(manifest.report["begin_ids"]), manifest.report["vocabulary"]
    )


def _open(directory: Path, name: str, manifest: Manifest) -> TokenStream:
    files = sorted(directory.glob(f"{name}-[0-9]*.bin"))
    shards = tuple(np.memmap(file, dtype=manifest.report["dtype"], mode="r") for file in files)
    tokens, text = (
        np.memmap(directory / f"{name}-{what}.bin", dtype="<i8", mode="r")
        for what in ("tokens", "bytes")
    )
    stream = TokenStream(shards, manifest.config["shard_tokens"], tokens, text)
    found, written = sum(len(shard) for shard in shards), manifest.report[name]
    if (found, stream.tokens, stream.documents) != (
        written["tokens"],
        written["tokens"],
        written["documents"],
    ):
        raise ShardError(
            f"{directory.name}: {name} has {found} tokens, its manifest says {written['tokens']}",
            field=name,
            reason="DAMAGED",
            limit=str(written["tokens"]),
        )
    return stream


def shards_hash(directory: Path) -> str:
    """Return the hash of the tokens in finished shards, which a model records as its data.

    Raises:
        ManifestError: the directory is incomplete.
    """
    files = read_manifest(directory).files
    tokens = {name: value for name, value in files.items() if name.endswith(".bin")}
    return hashlib.sha256(json.dumps(tokens, sort_keys=True).encode()).hexdigest()


class _Encoder:
    """Encoder of texts to the ids of whole documents."""

    def __init__(self, config: ShardConfig) -> None:
        directory = config.tokenizer_directory
        tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        self._encode_all: Callable[[Sequence[str]], list[list[int]]]
        if config.control_tokens:
            self._encode_all = lambda texts: [
                encoding.ids
                for encoding in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
            ]
        else:  # the same ids, by tiktoken where possible
            self._encode_all = open_tokenizer(directory).encode_all
        self._end_ids = [load_chat(directory).end_id]
        self.begin_ids: list[int] = []
        if config.begin_documents:
            named = json.loads((directory / "tokenizer_config.json").read_text()).get("bos_token")
            token = tokenizer.token_to_id(named) if isinstance(named, str) else None
            if token is None:
                raise ShardError(
                    f"begin_documents: {directory.name} names no bos_token",
                    field="begin_documents",
                    reason="MISSING",
                )
            self.begin_ids = [int(token)]
        self.vocabulary: int = tokenizer.get_vocab_size()

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        return [[*self.begin_ids, *ids, *self._end_ids] for ids in self._encode_all(texts)]


def _clear(directory: Path) -> None:
    """Empty the directory after an interrupted run; foreign files are refused, not removed."""
    make_directory(directory)
    left = sorted(directory.iterdir())
    if foreign := [file.name for file in left if not SHARD_FILES.fullmatch(file.name)]:
        raise ShardError(
            f"output_directory: {directory.name} holds {foreign[0]}, which is no part of shards",
            field="output_directory",
            reason="EXISTS",
        )
    for file in left:
        file.unlink()


def _reuse(directory: Path, settings: dict[str, Any]) -> Manifest:
    manifest = read_manifest(directory)
    if different := sorted(
        name for name in settings if manifest.config.get(name) != settings[name]
    ):
        raise ShardError(
            f"output_directory: {directory.name} was made with another {', '.join(different)}",
            field="output_directory",
            reason="MISMATCH",
        )
    return manifest


def _progress(
    sizes: Sequence[int], done: int, splits: Mapping[str, SplitWriter]
) -> TokenisationProgress:
    """Return the progress; within a file, only the bytes of tokenised texts count as read."""
    documents, tokens, text = (
        sum(getattr(s, name) for s in splits.values()) for name in ("documents", "tokens", "bytes")
    )
    read = max(sum(sizes[:done]), min(text, sum(sizes[: done + 1])))
    return TokenisationProgress(read, sum(sizes), documents, tokens)
