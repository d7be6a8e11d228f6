"""From texts to a tokenizer's directory, its manifest last. The files depend on texts and settings
alone; the manifest holds the time.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from tokenizers import Tokenizer

from training.errors import ConfigError
from training.manifest import Manifest, hash_file, write_manifest
from training.tokenization.byte_pairs import learn_byte_pairs
from training.tokenization.control import write_chat_files, write_tokenizer
from training.tokenization.reading import TextFiles
from training.tokenization.splitting import Split
from training.tokenization.units import CHARACTER, WORD, learn_units


class Kind(StrEnum):
    """What a token is."""

    BYTE_PAIRS = "byte-pairs"
    WORDS = "words"
    CHARACTERS = "characters"


@dataclass(frozen=True)
class TokenizerConfig:
    """How a tokenizer is learned. `split` and `least_count` concern byte pairs alone."""

    vocabulary: int
    kind: Kind = Kind.BYTE_PAIRS
    split: Split = Split.GPT4
    least_count: int = (
        2  # a pair that stands once in all texts is no pattern, only a row of the embedding
    )


def learn(texts: Iterable[str], config: TokenizerConfig) -> Tokenizer:
    """One pass over the texts."""
    if config.kind is Kind.BYTE_PAIRS:
        return learn_byte_pairs(texts, config.vocabulary, config.split, config.least_count)
    return learn_units(texts, config.vocabulary, WORD if config.kind is Kind.WORDS else CHARACTER)


def save(tokenizer: Tokenizer, config: TokenizerConfig, directory: Path) -> None:
    """tokenizer.json; for byte pairs also what a chat needs."""
    write = write_chat_files if config.kind is Kind.BYTE_PAIRS else write_tokenizer
    write(tokenizer, directory)


def make_directory(
    files: TextFiles,
    texts: Iterable[str],
    config: TokenizerConfig,
    directory: Path,
    code_commit: str,
) -> Manifest:
    """Learn and write everything.

    Args:
        texts: those of `files`, as somebody watches them being read.

    Raises:
        ConfigError: the directory holds something already, or a setting is out of bounds.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ConfigError(
            f"output: {directory.name} is there already", field="output", reason="EXISTS"
        )
    tokenizer = learn(texts, config)
    save(tokenizer, config, directory)
    above = os.path.commonpath(
        [path.absolute().parent for path in files.paths]
    )  # two folders may have files of one name
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
