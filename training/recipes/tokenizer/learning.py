"""Training of a tokenizer from texts into a directory, with the manifest written last.

The files depend on texts and settings only; the manifest also has the time.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from tokenizers import Tokenizer

from training.artifacts.manifest import Manifest, hash_file, write_manifest
from training.errors import ConfigError
from training.recipes.tokenizer.text_files import TextFiles
from training.tokenization.byte_pairs import (
    Split,
    learn_byte_pairs,
    write_chat_files,
    write_tokenizer,
)
from training.tokenization.units import CHARACTER, WORD, learn_units


class TokenKind(StrEnum):
    """Kind of the tokens in a vocabulary."""

    BYTE_PAIRS = "byte-pairs"
    WORDS = "words"
    CHARACTERS = "characters"


@dataclass(frozen=True)
class TokenizerConfig:
    """Training settings of a tokenizer. `split` and `least_count` apply to byte pairs only."""

    vocabulary: int
    kind: TokenKind = TokenKind.BYTE_PAIRS
    split: Split = Split.GPT4
    # A pair with a single occurrence would only add an embedding row.
    least_count: int = 2


def learn(texts: Iterable[str], config: TokenizerConfig) -> Tokenizer:
    """Train a tokenizer in one pass over the texts."""
    if config.kind is TokenKind.BYTE_PAIRS:
        return learn_byte_pairs(texts, config.vocabulary, config.split, config.least_count)
    return learn_units(
        texts, config.vocabulary, WORD if config.kind is TokenKind.WORDS else CHARACTER
    )


def save(tokenizer: Tokenizer, config: TokenizerConfig, directory: Path) -> None:
    """Write tokenizer.json and, for byte pairs, the chat files."""
    write = write_chat_files if config.kind is TokenKind.BYTE_PAIRS else write_tokenizer
    write(tokenizer, directory)


def make_directory(
    files: TextFiles,
    texts: Iterable[str],
    config: TokenizerConfig,
    directory: Path,
    code_commit: str,
) -> Manifest:
    """Train a tokenizer and write its directory.

    Args:
        texts: the texts of `files`, possibly wrapped for progress reports.

    Raises:
        ConfigError: the directory is not empty, or a setting is out of bounds.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ConfigError(
            f"output: {directory.name} exists already", field="output", reason="EXISTS"
        )
    tokenizer = learn(texts, config)
    save(tokenizer, config, directory)
    # Relative paths, since two folders may have files of the same name.
    above = os.path.commonpath([path.absolute().parent for path in files.paths])
    sources = {
        path.absolute().relative_to(above).as_posix(): hash_file(path) for path in files.paths
    }
    return write_manifest(
        directory,
        kind="tokenizer",
        version=directory.name,
        config=config,
        code_commit=code_commit,
        data=sources,
        report={"vocabulary": tokenizer.get_vocab_size(), "bytes": files.total_bytes},
    )
