"""Clusters of duplicates: equal for each order of input, memory and layout of files."""

import itertools
import random
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from training.corpus.document import CorpusError, Stage
from training.corpus.duplicates.clusters import (
    MIN_MEMORY_BYTES,
    Duplicate,
    find_duplicates,
    find_duplicates_in,
)
from training.corpus.duplicates.exact import digest
from training.corpus.duplicates.minhash import FINEWEB, MinHashConfig, signatures
from training.corpus.duplicates.rows import Row, order_key, read_rows, rows_of, write_rows

WORDS = [a + b for a, b in itertools.product("bcdfghklmnprst", ("ala", "ore", "int", "us", "em"))]


def make_id(number: int) -> str:
    return sha256(str(number).encode()).hexdigest()[:32]


def texts(seed: int = 1) -> list[tuple[str, str]]:
    """Return 300 documents: 60 texts, each with an exact copy and three edited copies."""
    generator = random.Random(seed)
    found = []
    for _ in range(60):
        words = generator.choices(WORDS, k=200)
        edited = [list(words) for _ in range(3)]
        for number, copy in enumerate(edited):
            copy[generator.randrange(200)] = f"edited{'abc'[number]}"
        found += [" ".join(copy) for copy in (words, words, *edited)]
    return [(make_id(number), text) for number, text in enumerate(found)]


def reference(
    rows: Iterable[Row], config: MinHashConfig = FINEWEB, least_similarity: float = 0.0
) -> list[Duplicate]:
    """Return the duplicates by dictionaries and repeated relabelling."""
    rows = list(rows)
    numbers = {row.id: number for number, row in enumerate(rows)}
    ordered = sorted(rows, key=lambda row: (row.order, row.id))
    first: dict[bytes, Row] = {}
    exact = {row.id: first.setdefault(row.digest, row).id for row in ordered}
    label = {row.id: place for place, row in enumerate(ordered) if exact[row.id] == row.id}
    buckets: dict[tuple[int, bytes], list[Row]] = {}
    for row in ordered:
        if row.id in label:
            for band in range(config.bands):
                part = np.asarray(row.signature)[band * config.band_hashes :][: config.band_hashes]
                buckets.setdefault((band, part.tobytes()), []).append(row)
    pairs = {
        (one.id, other.id)
        for bucket in buckets.values()
        for place, other in enumerate(bucket[1:])
        for one in (bucket[0], bucket[place])
        if np.mean(np.asarray(one.signature) == np.asarray(other.signature)) >= least_similarity
    }
    changed = True
    while changed:
        changed = False
        for pair in pairs:
            lowest = min(label[id] for id in pair)
            for id in pair:
                changed |= label[id] != lowest
                label[id] = lowest
    found = []
    for row in ordered:
        if exact[row.id] != row.id:
            stage, kept = Stage.EXACT_DUPLICATE, exact[row.id]
        else:
            stage, kept = Stage.NEAR_DUPLICATE, ordered[label[row.id]].id
        if kept != row.id:
            found.append(Duplicate(row.id, stage, kept, numbers[row.id]))
    return found


def test_clusters_equal_the_reference(tmp_path: Path) -> None:
    rows = list(rows_of(texts()))
    found = list(find_duplicates(rows, tmp_path))
    assert found == reference(rows)
    stages = [duplicate.stage for duplicate in found]
    assert stages.count(Stage.EXACT_DUPLICATE) == 60
    assert 150 < stages.count(Stage.NEAR_DUPLICATE) <= 180
    assert list(tmp_path.iterdir()) == []


def linked(first: Iterable[int], second: Iterable[int], seed: int = 1) -> list[Row]:
    """Return rows that share their first band by the numbers `first`, their second by `second`."""
    groups = np.array([list(first), list(second)], dtype=np.uint32)
    count = groups.shape[1]
    generator = np.random.default_rng(seed)
    minima = generator.integers(2**31, 2**32, size=(count, FINEWEB.hashes), dtype=np.uint32)
    minima[:, :8], minima[:, 8:16] = groups[0][:, None], groups[1][:, None]
    return [Row(make_id(n), order_key(make_id(n)), digest(str(n)), minima[n]) for n in range(count)]


def test_long_chain_is_one_cluster(tmp_path: Path) -> None:
    count = 3000
    rows = linked((n // 2 for n in range(count)), ((n + 1) // 2 for n in range(count)))
    found = list(find_duplicates(rows, tmp_path))
    kept = min(row.id for row in rows)
    assert len(found) == count - 1
    assert {duplicate.kept for duplicate in found} == {kept}


def test_sorted_runs_give_the_same_clusters(tmp_path: Path) -> None:
    """84,000 band keys are more than a run of 1 MiB; each 14th has one of two values."""
    count = 6000
    generator = np.random.default_rng(5)
    rows = linked(generator.integers(0, count, size=count), np.arange(count) // (count // 2))
    expected = list(find_duplicates(rows, tmp_path))
    assert len(expected) > count * 0.9
    random.Random(2).shuffle(rows)
    files = [tmp_path / name for name in "abc"]
    for number, file in enumerate(files):
        write_rows(file, rows[number::3])
    found = list(find_duplicates_in(files, tmp_path / "work", MIN_MEMORY_BYTES))
    assert [one[:3] for one in found] == [one[:3] for one in expected]


def test_input_order_and_layout_do_not_matter(tmp_path: Path) -> None:
    documents = texts(seed=2)
    expected = [one[:3] for one in find_duplicates(rows_of(documents), tmp_path)]
    random.Random(3).shuffle(documents)
    files = [tmp_path / name for name in ("first", "second")]
    write_rows(files[0], rows_of(documents[:17]))
    write_rows(files[1], rows_of(documents[17:]))
    for order in (files, files[::-1]):
        assert [one[:3] for one in find_duplicates_in(order, tmp_path / "work")] == expected


def test_without_the_kept_document_the_next_one_is_kept(tmp_path: Path) -> None:
    rows = list(rows_of(texts()))
    found = list(find_duplicates(rows, tmp_path))
    kept = found[0].kept
    members = [duplicate.id for duplicate in found if duplicate.kept == kept]
    rest = [row for row in rows if row.id != kept]
    again = list(find_duplicates(rest, tmp_path))
    assert again == reference(rest)
    dropped = {duplicate.id for duplicate in again}
    assert min(members) not in dropped
    assert len(again) == len(found) - 1


def test_lowest_order_is_kept(tmp_path: Path) -> None:
    rows = [row._replace(order=2**64 - 1 - row.order) for row in rows_of(texts())]
    found = list(find_duplicates(rows, tmp_path))
    assert found == reference(rows)
    assert all(duplicate.kept > duplicate.id for duplicate in found)


def test_equal_orders_are_decided_by_the_id(tmp_path: Path) -> None:
    rows = [row._replace(order=0) for row in rows_of(texts())]
    assert list(find_duplicates(rows, tmp_path)) == reference(rows)


def test_other_settings(tmp_path: Path) -> None:
    config = MinHashConfig(ngram=3, bands=20, band_hashes=5, seed=9)
    rows = list(rows_of(texts(), config))
    assert list(find_duplicates(rows, tmp_path, config=config)) == reference(rows, config)


def test_candidates_below_the_least_similarity_stay_apart(tmp_path: Path) -> None:
    """Documents of a group share their first half, and pairs of them three quarters."""
    generator = random.Random(6)
    documents = []
    for _ in range(40):
        half = generator.choices(WORDS, k=150)
        for _ in range(3):
            more = half + generator.choices(WORDS, k=75)
            documents += [" ".join(more + generator.choices(WORDS, k=75)) for _ in range(2)]
    rows = list(rows_of((make_id(number), text) for number, text in enumerate(documents)))
    counts = []
    for least in (0.0, 0.5, 0.6, 0.9):
        found = list(find_duplicates(rows, tmp_path, least_similarity=least))
        assert found == reference(rows, least_similarity=least)
        counts.append(len(found))
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[2] > 0
    files = [tmp_path / name for name in "abc"]
    for number, file in enumerate(files):
        write_rows(file, rows[number::3])
    found = list(find_duplicates_in(files, tmp_path / "work", least_similarity=0.6))
    in_files = [*rows[0::3], *rows[1::3], *rows[2::3]]
    assert found == reference(in_files, least_similarity=0.6)


def test_neighbours_of_an_equal_band_are_compared(tmp_path: Path) -> None:
    """The first of three documents shares only a band with the others, which are alike."""
    minima = np.arange(3 * FINEWEB.hashes, dtype=np.uint32).reshape(3, FINEWEB.hashes)
    minima[2] = minima[1]
    minima[2, ::8] += 1000  # a minimum of each band
    minima[:, :8] = 7
    rows = [Row(make_id(n), n, digest(str(n)), minima[n]) for n in range(3)]
    (found,) = find_duplicates(rows, tmp_path, least_similarity=0.8)
    assert found == Duplicate(make_id(2), Stage.NEAR_DUPLICATE, make_id(1), 2)
    assert len(list(find_duplicates(rows, tmp_path))) == 2


def test_no_rows(tmp_path: Path) -> None:
    assert list(find_duplicates([], tmp_path)) == []


def test_files_of_an_interrupted_search_are_removed(tmp_path: Path) -> None:
    rows = list(rows_of(texts()))
    interrupted = find_duplicates(rows, tmp_path)
    next(interrupted)
    (tmp_path / "sorts.partial").mkdir(exist_ok=True)
    (tmp_path / "sorts.partial" / "bands-0").write_bytes(b"part of a run")
    assert list(find_duplicates(rows, tmp_path)) == reference(rows)
    assert list(tmp_path.iterdir()) == []


def test_records_with_the_same_id_are_told_apart_by_their_numbers(tmp_path: Path) -> None:
    """One of them is kept, chosen by their other columns."""
    id, dates = make_id(1), ["2026-01-03", "2026-01-01", "2026-01-02"]
    orders = [order_key(id, date) for date in dates]
    assert len({order >> 32 for order in orders}) == 1
    found = list(find_duplicates(rows_of((id, "a text", date) for date in dates), tmp_path))
    assert {one.number for one in found} == {0, 1, 2} - {orders.index(min(orders))}
    assert {one[:3] for one in found} == {(id, Stage.EXACT_DUPLICATE, id)}


@pytest.mark.parametrize(
    ("field", "value", "limit"),
    [
        ("memory_bytes", MIN_MEMORY_BYTES - 1, str(MIN_MEMORY_BYTES)),
        ("least_similarity", 1.01, "1"),
        ("least_similarity", -0.1, "0"),
    ],
)
def test_settings_out_of_range_are_refused(
    tmp_path: Path, field: str, value: float, limit: str
) -> None:
    with pytest.raises(CorpusError) as caught:
        list(find_duplicates([], tmp_path, **{field: value}))  # type: ignore[arg-type]
    assert caught.value.field == f"duplicates.{field}"
    assert limit in caught.value.limit


VALID = Row("0" * 32, 1, digest("a"), signatures("a"))


@pytest.mark.parametrize(
    ("field", "row"),
    [
        ("id", VALID._replace(id="0" * 31)),
        ("id", VALID._replace(id="g" * 32)),
        ("order", VALID._replace(order=2**64)),
        ("order", VALID._replace(order=-1)),
        ("digest", VALID._replace(digest=b"short")),
        ("signature", VALID._replace(signature=b"short")),
        ("signature", VALID._replace(signature=signatures("a", MinHashConfig(bands=13)))),
    ],
)
def test_row_of_another_form_is_refused(tmp_path: Path, field: str, row: Row) -> None:
    with pytest.raises(CorpusError) as caught:
        write_rows(tmp_path / "rows", [row])
    assert caught.value.field == field
    assert caught.value.limit
    assert not (tmp_path / "rows").exists()


def test_rows_survive_the_file(tmp_path: Path) -> None:
    rows = list(rows_of(texts()[:3]))
    write_rows(tmp_path / "rows", [row._replace(signature=bytes(row.signature)) for row in rows])
    (batch,) = read_rows([tmp_path / "rows"])
    assert [f"{row['id_high']:016x}{row['id_low']:016x}" for row in batch] == [r.id for r in rows]
    assert batch["order"].tolist() == [row.order for row in rows]
    assert batch["signature"].tolist() == [np.asarray(row.signature).tolist() for row in rows]


def test_damaged_or_other_files_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "rows"
    write_rows(file, [VALID])
    whole = file.read_bytes()
    with pytest.raises(CorpusError) as caught:
        list(read_rows([file], MinHashConfig(seed=2)))
    assert "2" in caught.value.limit
    file.write_bytes(whole[:-1])
    with pytest.raises(CorpusError) as caught:
        list(read_rows([file]))
    assert caught.value.reason == "TRUNCATED"
    for other in (b"", b"x" * len(whole)):
        file.write_bytes(other)
        with pytest.raises(CorpusError) as caught:
            list(read_rows([file]))
        assert caught.value.field == "rows"
