"""A search that is killed at any point and run again gives the same bytes."""

import json
import random
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from tests.support.duplicate_search import search
from tests.training.corpus.duplicates import kill_searches

ROOT = Path(__file__).resolve().parents[4]
SHARDS, DOCUMENTS = 4, 60


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Return a folder with texts, a fifth of them near duplicates."""
    generator = random.Random(7)
    words = [f"{a}{b}{c}" for a in "bdgkmprst" for b in ("a", "io", "u") for c in ("l", "nd", "x")]
    folder = tmp_path / "corpus"
    (folder / "texts").mkdir(parents=True)
    texts: list[list[str]] = []
    for shard in range(SHARDS):
        lines = []
        for number in range(DOCUMENTS):
            text = list(generator.choice(texts)) if texts and number % 5 == 0 else []
            text = text or generator.choices(words, k=300)
            text[generator.randrange(300)] = "edited"
            texts.append(text)
            id = sha256(f"{shard} {number}".encode()).hexdigest()[:32]
            lines.append(json.dumps({"id": id, "text": " ".join(text)}))
        (folder / "texts" / f"{shard}.jsonl").write_text("\n".join(lines))
    return folder


def kill(folder: Path, kills: int, seed: int) -> int:
    """Return the number of kills with rows of some shards and without a result."""
    command = [sys.executable, "-m", kill_searches.__name__, str(folder), str(kills), str(seed)]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE)
    return int(done.stdout)


def test_killed_searches_end_with_the_same_bytes(corpus: Path) -> None:
    assert kill(corpus, kills=5, seed=1)


@pytest.mark.long
def test_many_killed_searches_end_with_the_same_bytes(corpus: Path) -> None:
    assert kill(corpus, kills=100, seed=2) >= 20


@pytest.mark.long
def test_number_of_workers_does_not_matter(corpus: Path) -> None:
    search(corpus, 1)
    expected = kill_searches.outputs(corpus)
    shutil.rmtree(corpus / "rows")
    search(corpus, 3)
    assert kill_searches.outputs(corpus) == expected
