"""Removal of documents that contain items of the evaluation.

A document is dropped if it shares an n-gram of 13 words with an item, as in GPT-3 (Brown et al.
2020, appendix C). Words are normalised as for near duplicates. Texts of 8 to 12 words count as a
whole; shorter ones cannot be told from chance, also as in GPT-3.

The index is a folder with the sorted hashes of all n-grams, mapped into memory by each process.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from training.corpus.document import CorpusError, Document, Stage, Verdict
from training.corpus.duplicates.ngrams import (
    Hashes,
    ngram_hashes,
    ngram_hashes_of_sizes,
    word_hashes,
)

Items = npt.NDArray[np.uint32]

RULE = "evaluation item"
VERSION = 1
HASHES, ITEMS, META = "hashes.npy", "items.npy", "index.json"
MAX_NGRAM = 64
# Hashes whose last bits occur in no item need no search: 16 MB for each process.
FILTER_BITS = 24
NO_HASHES: Hashes = np.empty(0, dtype=np.uint64)


class EvaluationItem(NamedTuple):
    """An item of a benchmark or probe.

    Attributes:
        task: name of the benchmark or probe.
        number: place of the item in its task, from 0.
        texts: texts that must not occur in training data, for example the question.
    """

    task: str
    number: int
    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DecontaminationConfig:
    """Settings of the index.

    Attributes:
        ngram: words in an n-gram; a shorter text counts as a whole.
        least_words: least words of a text.
        most_items: n-grams of more items are left out: instructions and quotations. GPT-3 leaves
            out n-grams that occur in more than 10 documents.

    Raises:
        CorpusError: a value is outside its range.
    """

    ngram: int = 13
    least_words: int = 8
    most_items: int = 10

    def __post_init__(self) -> None:
        for name, limit in (
            ("ngram", MAX_NGRAM),
            ("least_words", self.ngram),
            ("most_items", 10**6),
        ):
            if not 1 <= (value := getattr(self, name)) <= limit:
                raise CorpusError(
                    f"decontamination.{name}: {value}, must be 1 to {limit}",
                    field=f"decontamination.{name}",
                    limit=f"1 to {limit}",
                )


GPT3 = DecontaminationConfig()


def build_index(
    items: Iterable[EvaluationItem], folder: Path, config: DecontaminationConfig = GPT3
) -> Path:
    """Return the folder of the index of the items in `folder`; build the index if missing.

    The name is the hash of items and settings, so changed items get another index.
    """
    items = list(items)
    content = json.dumps([VERSION, asdict(config), items])
    home = folder / hashlib.sha256(content.encode()).hexdigest()[:32]
    if home.exists():
        return home
    found = [_item_hashes(item.texts, config) for item in items]
    lengths = [len(hashes) for hashes in found]
    owners = np.repeat(np.arange(len(items), dtype=np.uint32), lengths)
    # Of several items with an n-gram the first is named.
    hashes, first, counts = np.unique(
        np.concatenate([NO_HASHES, *found]), return_index=True, return_counts=True
    )
    rare = counts <= config.most_items
    partial = home.with_name(f"{home.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    np.save(partial / HASHES, hashes[rare])
    np.save(partial / ITEMS, owners[first[rare]])
    meta = {
        "config": asdict(config),
        "items": [[item.task, item.number] for item in items],
        "without_ngrams": lengths.count(0),
        "common_ngrams": int((~rare).sum()),
    }
    (partial / META).write_text(json.dumps(meta))
    try:
        partial.rename(home)
    except OSError:  # another process was faster
        shutil.rmtree(partial)
    return home


class Decontaminator:
    """Step that drops documents with an n-gram of an item.

    Args:
        index: folder from `build_index`.

    Raises:
        CorpusError: the folder is no index.
    """

    def __init__(self, index: Path) -> None:
        try:
            meta = json.loads((index / META).read_text())
            self._hashes: Hashes = np.load(index / HASHES, mmap_mode="r")
            self._owners: Items = np.load(index / ITEMS, mmap_mode="r")
        except (OSError, ValueError) as error:
            raise CorpusError(
                f"decontamination.index: {index.name} is no index of items",
                field="decontamination.index",
            ) from error
        self._config = DecontaminationConfig(**meta["config"])
        self._items: list[tuple[str, int]] = meta["items"]
        self._filter = np.zeros(2**FILTER_BITS, dtype=bool)
        self._filter[_last_bits(self._hashes)] = True

    def __call__(self, document: Document) -> Document | Verdict:
        """Return the document, or a verdict with the task and number of the item.

        Of several items, the verdict names that with the most common n-grams.
        """
        words = word_hashes(document.text)
        sizes = range(self._config.least_words, self._config.ngram + 1)
        hashes = ngram_hashes_of_sizes(words, sizes)
        hashes = np.unique(hashes[self._filter[_last_bits(hashes)]])
        places = np.searchsorted(self._hashes, hashes)
        places = places[places < len(self._hashes)]
        places = places[self._hashes[places] == hashes[: len(places)]]
        if not len(places):
            return document
        owners, counts = np.unique(self._owners[places], return_counts=True)
        task, number = self._items[owners[counts.argmax()]]
        return Verdict(
            Stage.DECONTAMINATION, RULE, f"{task} {number} ({counts.max()} n-grams in common)"
        )


def _item_hashes(texts: Iterable[str], config: DecontaminationConfig) -> Hashes:
    """Return the different hashes of the n-grams of an item."""
    found = [NO_HASHES]
    for text in texts:
        words = word_hashes(text)
        if len(words) >= config.least_words:
            size = min(config.ngram, len(words))
            windows = np.sort(np.lib.stride_tricks.sliding_window_view(words, size), axis=1)
            different = 1 + (windows[:, 1:] != windows[:, :-1]).sum(axis=1)
            # Columns of numbers and repeated words occur in many documents.
            found.append(ngram_hashes(words, size)[2 * different > size])
    return np.unique(np.concatenate(found))


def _last_bits(hashes: Hashes) -> Hashes:
    bits: Hashes = hashes & np.uint64(2**FILTER_BITS - 1)
    return bits
