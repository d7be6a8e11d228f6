"""Training of a tokenizer from texts into a directory, with the manifest written last.

The files depend on texts and settings only; the manifest also has the time.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from training.artifacts.manifest import Manifest, hash_file, write_manifest
from training.errors import ConfigError
from training.recipes.tokenizer.text_files import TextFiles
from training.tokenization.learning import TokenizerConfig, learn, save


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
