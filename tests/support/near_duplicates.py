"""Real documents with near duplicates, their clusters by this project and by datatrove."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from resiliparse.extract.html2text import extract_plain_text

from infra.install import documentation
from tests.oracle.environments import python_of
from training.corpus.duplicates.clusters import find_duplicates
from training.corpus.duplicates.minhash import MinHashConfig
from training.corpus.duplicates.rows import rows_of

Documents = Sequence[tuple[str, str]]

PEER = Path(__file__).parents[1] / "oracle" / "datatrove_minhash.py"


@dataclass(frozen=True)
class Clusters:
    """Result of a search.

    Attributes:
        members: ids of each cluster of at least two documents.
        removed: ids of the documents that are not kept.
        cpu_seconds: processor time, from texts to the result.
    """

    members: Sequence[frozenset[str]]
    removed: frozenset[str]
    cpu_seconds: float

    @property
    def documents(self) -> frozenset[str]:
        """Return the ids of all documents in a cluster."""
        return frozenset().union(*self.members)


def manual_pages(every: int = 1, most_characters: int = 50_000) -> list[tuple[str, str]]:
    """Return id and text of pages of the installed manuals, many of them near duplicates.

    Args:
        every: each n-th page of the sorted list.
    """
    found = []
    for page in sorted(documentation.find_installed().rglob("*.html"))[::every]:
        text = extract_plain_text(page.read_text("utf-8", "replace"), main_content=True)
        if 200 < len(text) <= most_characters:
            found.append((sha256(str(page).encode()).hexdigest()[:32], text))
    return found


def our_clusters(documents: Documents, folder: Path, seed: int = 1) -> Clusters:
    """Search with our code."""
    config = MinHashConfig(seed=seed)
    start = time.process_time()
    found = list(find_duplicates(rows_of(documents, config), folder, config=config))
    seconds = time.process_time() - start
    kept = {duplicate.id: duplicate.kept for duplicate in found}
    members: dict[str, set[str]] = {}
    for id in kept:
        root = id
        while root in kept:  # an exact duplicate of a near duplicate
            root = kept[root]
        members.setdefault(root, {root}).add(id)
    return Clusters([frozenset(group) for group in members.values()], frozenset(kept), seconds)


def datatrove_clusters(documents: Documents, folder: Path) -> Clusters:
    """Search with datatrove's four stages, in its own environment."""
    texts, out = folder / "texts", folder / "clusters.json"
    texts.mkdir(parents=True)
    with (texts / "0.jsonl").open("w") as file:
        for id, text in documents:
            file.write(json.dumps({"id": id, "text": text}) + "\n")
    command = [str(python_of("datatrove")), str(PEER), str(texts), str(folder / "work"), str(out)]
    subprocess.run(command, check=True, capture_output=True)
    result = json.loads(out.read_text())
    members: dict[int, set[str]] = {}
    for id, cluster in result["clusters"].items():
        members.setdefault(cluster, set()).add(id)
    return Clusters(
        [frozenset(group) for group in members.values()],
        frozenset(result["removed"]),
        sum(result["cpu_seconds"].values()),
    )


def agreement(first: Clusters, second: Clusters) -> float:
    """Return the share of the removed documents of `first` that are in a cluster of `second`."""
    return len(first.removed & second.documents) / max(1, len(first.removed))
