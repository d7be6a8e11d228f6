"""Small corpora for tests of the whole data path."""

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from training.data_path.config import CorpusConfig, from_mapping
from training.data_path.pipeline import build
from training.data_path.summary import Summary
from training.data_path.tables import read_rows
from training.runs import Step

SUBJECTS = ("the keeper", "a farmer", "my sister", "the old captain", "our teacher", "the mayor")
VERBS = ("painted", "sold", "found", "repaired", "described", "bought", "forgot", "photographed")
OBJECTS = (
    "the lighthouse",
    "a windmill",
    "the wooden bridge",
    "an apple tree",
    "the small library",
)
PLACES = ("near the harbour", "behind the church", "in the morning", "during the winter", "at home")
# Settings with which nothing but language and duplicates drops a text.
PERMISSIVE: Mapping[str, Any] = {
    "url_categories": [],
    "quality": {"groups": []},
    "decontaminate": False,
    "shards": {"vocabulary": 400, "held_out_fraction": 0.3},
}


class Silent:
    """A display that shows nothing."""

    def begin(self, step: Step) -> None:
        pass

    def move(self, step: Step) -> None:
        pass

    def end(self, step: Step) -> None:
        pass

    def say(self, text: str) -> None:
        pass


def article(number: int) -> str:
    """Return an English text that is a near duplicate of no other."""
    choose = random.Random(number).choice
    sentences = (
        f"{choose(SUBJECTS)} {choose(VERBS)} {choose(OBJECTS)} {choose(PLACES)} and then"
        f" {choose(SUBJECTS)} {choose(VERBS)} {choose(OBJECTS)} {choose(PLACES)}."
        for _ in range(12)
    )
    return " ".join(sentence.capitalize() for sentence in sentences)


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def page(number: int, host: str = "example.org", **more: Any) -> dict[str, Any]:
    """Return a row with text and URL."""
    return {"text": article(number), "url": f"https://{host}/{number}", **more}


def settings(folder: Path, *sources: Mapping[str, Any], **changes: Any) -> CorpusConfig:
    """Return permissive settings for sources; `changes` replaces sections."""
    return from_mapping({"sources": list(sources), **PERMISSIVE, **changes}, folder)


def build_quietly(config: CorpusConfig, out: Path, workers: int = 1) -> Summary:
    """Build a corpus without output."""
    return build(config, out, workers, Silent())


def content(out: Path) -> dict[str, bytes]:
    """Return the files of the result that must have equal bytes, by relative name."""
    result = out / "result"
    # Manifests contain the time of writing, and the report the cost on this machine.
    others = ("manifest.json", "report.html", "key")
    files = (path for path in result.rglob("*") if path.is_file() and path.name not in others)
    return {path.relative_to(result).as_posix(): path.read_bytes() for path in files}


def documents(out: Path) -> list[dict[str, Any]]:
    """Return the documents of the result in order."""
    files = sorted((out / "result" / "documents").iterdir())
    return [row for file in files for row in read_rows(file)]
