"""Settings of the corpora, and training texts of the comparison without cleaning."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from training.corpus.document import Stage
from training.data.token_shards import ShardConfig, holds_out, write_shards
from training.data_path.log import LOG, RESULT, entries
from training.data_path.pipeline import DOCUMENTS, SHARDS, TOKENIZER
from training.data_path.tables import read_rows
from training.recipes.life.plan import Plan

HELD_OUT_FRACTION = 0.1
LICENCES: Mapping[str, str] = {
    "manuals": "licences of the Debian packages (PSF-2.0, PostgreSQL, GPL-2.0, public domain)",
    "articles": "CC-BY-SA-4.0",
}
CLEAN, RAW = "clean", "raw"
CORPUS_LICENCE = "licences of the sources; for demonstrations only"
SAMPLES, SAMPLE_CHARACTERS = 3, 500


def settings(crawls: Mapping[str, Path], plan: Plan) -> str:
    """Return the settings of the cleaned corpus as TOML.

    Args:
        crawls: folder of WARC files by source.
    """
    return (
        f"licence = {json.dumps(CORPUS_LICENCE)}\n"
        f"decontaminate = {json.dumps(plan.decontaminate)}\n"
        f"{_sources(crawls)}\n"
        f"[shards]\nvocabulary = {plan.vocabulary}\nheld_out_fraction = {HELD_OUT_FRACTION}\n"
    )


def raw_settings(crawls: Mapping[str, Path]) -> str:
    """Return the settings of the extracted texts without any filter, as TOML.

    Exact duplicates are dropped by every build.
    """
    return (
        f"licence = {json.dumps(CORPUS_LICENCE)}\n"
        "url_categories = []\nnear_duplicates = false\ndecontaminate = false\npersonal_data = []\n"
        f"{_sources(crawls)}\n"
        "[language]\nkeep = []\nmin_score = 0.0\n"
        "[quality]\ngroups = []\n"
    )


def _sources(crawls: Mapping[str, Path]) -> str:
    return "\n".join(
        f"[[sources]]\nname = {json.dumps(name)}\nfolder = {json.dumps(str(folder))}\n"
        f'files = ["**/*.warc*"]\nlicence = {json.dumps(LICENCES[name])}\n'
        for name, folder in crawls.items()
    )


def documents(corpus: Path) -> Iterator[dict[str, Any]]:
    """Yield the documents of a corpus in their order."""
    for file in sorted((corpus / RESULT / DOCUMENTS).iterdir()):
        yield from read_rows(file)


def tokenizer_of(corpus: Path) -> Path:
    """Return the folder of the tokenizer that a build has trained."""
    return corpus / RESULT / TOKENIZER


def shards_of(corpus: Path) -> Path:
    """Return the token shards of a corpus."""
    return corpus / RESULT / SHARDS


def examples(corpus: Path) -> list[dict[str, str]]:
    """Return the beginnings of the first documents, for display."""
    found = []
    for row, _ in zip(documents(corpus), range(SAMPLES), strict=False):
        found.append({"title": row["url"], "text": row["text"][:SAMPLE_CHARACTERS]})
    return found


def held_out_urls(clean: Path) -> set[str]:
    """Return the URLs of the held-out documents and of the duplicates that they represent."""
    held = {
        row["id"]: row["url"]
        for row in documents(clean)
        if holds_out(row["text"].encode(), HELD_OUT_FRACTION)
    }
    duplicates = (Stage.EXACT_DUPLICATE, Stage.NEAR_DUPLICATE)
    urls = set(held.values())
    urls |= {
        entry.url
        for entry in entries(clean / RESULT / LOG)
        if entry.stage in duplicates and entry.value in held
    }
    return urls


def write_raw_shards(clean: Path, raw: Path, output: Path) -> dict[str, int]:
    """Tokenize the raw texts without the pages behind held-out documents.

    The tokenizer is that of the cleaned corpus, so both models have the same size.

    Returns:
        numbers of texts, of tokens, and of texts left out.
    """
    excluded = held_out_urls(clean)
    texts, left_out = output.with_name(f"{output.name}.jsonl"), 0
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = texts.with_suffix(".partial")
    with partial.open("w", encoding="utf-8") as opened:
        for row in documents(raw):
            if row["url"] in excluded:
                left_out += 1
            else:
                opened.write(json.dumps({"text": row["text"]}) + "\n")
    partial.replace(texts)
    manifest = write_shards(
        ShardConfig(
            sources=(texts,),
            tokenizer_directory=tokenizer_of(clean),
            output_directory=output,
            held_out_fraction=0.0,
            licence=CORPUS_LICENCE,
        )
    )
    return {
        "texts": manifest.report["train"]["documents"],
        "tokens": manifest.report["train"]["tokens"],
        "left_out": left_out,
    }
