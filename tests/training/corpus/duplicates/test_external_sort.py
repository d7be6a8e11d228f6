"""Sorting in bounded memory."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from training.corpus.duplicates.external_sort import ExternalSort, Records

DTYPE = [("key", "<u8"), ("place", "<u4")]
SMALL = 4 * 12 * 1024  # runs of 1,024 records


def sorted_batches(
    keys: np.ndarray, places: np.ndarray, folder: Path, memory_bytes: int
) -> list[Records]:
    sort = ExternalSort(DTYPE, folder / "run", memory_bytes)
    for start in range(0, len(keys), 700):
        part = slice(start, start + 700)
        sort.add(keys[part].astype(np.uint64), places[part].astype(np.uint32))
    return list(sort.batches())


@pytest.mark.parametrize("values", [1, 3, 1000, 10**9])
@pytest.mark.parametrize("count", [0, 1, 1023, 1024, 10_240, 30_001])
def test_records_are_sorted(tmp_path: Path, values: int, count: int) -> None:
    generator = np.random.default_rng(count)
    keys = generator.integers(0, values, size=count)
    places = generator.permutation(count)
    batches = sorted_batches(keys, places, tmp_path, SMALL)
    order = np.lexsort((places, keys))
    found = np.concatenate(batches) if batches else np.empty(0, dtype=DTYPE)
    assert np.array_equal(found["key"], keys[order])
    assert np.array_equal(found["place"], places[order])
    assert list(tmp_path.iterdir()) == []


def test_batches_are_small_and_hold_equal_values_together(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    keys = generator.integers(0, 3000, size=30_000)
    batches = sorted_batches(keys, np.arange(30_000), tmp_path, SMALL)
    assert len(batches) > 10
    for before, after in itertools.pairwise(batches):
        assert before["key"][-1] < after["key"][0]


def test_runs_are_written_beyond_the_memory(tmp_path: Path) -> None:
    sort = ExternalSort(DTYPE, tmp_path / "run", SMALL)
    sort.add(np.arange(2500, dtype=np.uint64), np.arange(2500, dtype=np.uint32))
    assert (tmp_path / "run").stat().st_size == 2 * 12 * 1024
