"""JSON lines and Parquet: the columns of published corpora, and rows that are wrong."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from training.corpus.document import Document, Item, Origin, Rejected
from training.corpus.sources import tables
from training.corpus.sources.config import Columns, SourceConfig
from training.corpus.sources.parquet_pages import PageHeaderError, largest_page
from training.corpus.sources.reading import read

LIMIT = 1 << 20
URL = "https://site.example/a"


def items_of(
    folder: Path, data: bytes, name: str = "a.jsonl", columns: Columns | None = None
) -> list[Item]:
    file = folder / name
    if data:
        file.write_bytes(data)
    source = SourceConfig(
        "table", folder, licence="CC0-1.0", columns=columns or Columns(), max_record_bytes=LIMIT
    )
    return list(read(source, file))


def lines(*rows: object) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def without_id(item: Item) -> Item:
    return replace(item, origin=replace(item.origin, id=""))


def rule_of(item: Item) -> str:
    assert isinstance(item, Rejected)
    return item.verdict.rule


SHAPES = {
    "C4": ({"text": "abc", "timestamp": "2019-04-25T12:57:54Z", "url": URL}, URL, "", ""),
    "FineWeb": (
        {"text": "abc", "id": "<urn:uuid:1>", "dump": "CC-MAIN-2013-20", "url": URL,
         "date": "2019-04-25T12:57:54Z", "language": "en", "token_count": 1},
        URL, "", "",
    ),
    "RefinedWeb": (
        {"content": "abc", "url": URL, "timestamp": "2019-04-25T12:57:54Z", "dump": "x",
         "segment": "y", "image_urls": []},
        URL, "", "",
    ),
    "Dolma": (
        {"id": "1", "text": "abc", "source": "common-crawl", "added": "2024-01-01T00:00:00Z",
         "created": "2019-04-25T12:57:54Z", "metadata": {"url": URL, "license": "CC-BY-4.0"}},
        URL, "CC-BY-4.0", "common-crawl",
    ),
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("ending", [".jsonl", ".json.gz", ".jsonl.zst", ".parquet"])
def test_columns_of_published_corpora(tmp_path, shape, ending):
    row, url, licence, collection = SHAPES[shape]
    name = f"part{ending}"
    if ending == ".parquet":
        pq.write_table(pa.Table.from_pylist([row, row]), tmp_path / name)
        items = items_of(tmp_path, b"", name)
    else:
        encode = {"gz": gzip.compress, "zst": zstandard.compress}.get(ending[-3:].strip("."), bytes)
        items = items_of(tmp_path, encode(lines(row, row)), name)
    date, licence = "2019-04-25T12:57:54Z", licence or "CC0-1.0"
    expected = Document(Origin("", url, "table", licence, date, collection), "abc")
    assert [without_id(item) for item in items] == [expected, expected]


def test_columns_by_setting(tmp_path):
    data = lines({"body": {"main": "abc"}, "text": "other", "link": URL})
    columns = Columns(text=("body.main",), url=("link",))
    [document] = items_of(tmp_path, data, columns=columns)
    assert (document.text, document.origin.url) == ("abc", URL)


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        (b"{no json}", "json"),
        (b"[1, 2]", "json"),
        (b'"text"', "json"),
        (b'{"text": "\xff\xfe"}', "json"),
        (b"[" * 100_000, "json"),
        (b'{"text": ' + b"9" * 10_000 + b"}", "json"),
        (b'{"url": "x"}', "text column"),
        (b'{"text": null}', "text column"),
        (b'{"text": 5}', "text column"),
        (b'{"text": ["a"]}', "text column"),
        (b'{"text": ""}', "empty text"),
        (b'{"text": " \\n\\t"}', "empty text"),
        (b'{"text": "a\\ud800b"}', "encoding"),
        (b'{"text": "' + b"a" * (LIMIT * 3) + b'"}', "record size"),
        (b"a" * (LIMIT + 2), "record size"),
    ],
)
def test_wrong_line_is_named_and_no_other_is_lost(tmp_path, line, rule):
    good = lines({"text": "abc"})
    items = items_of(tmp_path, good + line + b"\n" + good)
    assert [type(item) for item in items] == [Document, Rejected, Document]
    assert rule_of(items[1]) == rule
    [last] = items_of(tmp_path, line, "b.jsonl")
    assert rule_of(last) == rule


def test_values_of_wrong_types_beside_the_text_are_left_out(tmp_path):
    row = {"text": "abc", "url": 7, "date": ["x"], "license": {"a": 1}, "source": "s" * 10_000}
    [document] = items_of(tmp_path, lines(row, {"text": "b", "url": "\ud800"})[:-1])[:1]
    assert without_id(document).origin == Origin("", "", "table", "CC0-1.0", "", "")


def test_blank_lines_give_no_item(tmp_path):
    data = b"\n" + lines({"text": "a"}) + b"  \n" + lines({"text": "b"})[:-1]
    assert [item.text for item in items_of(tmp_path, data)] == ["a", "b"]


def test_line_across_gzip_members(tmp_path):
    data = lines({"text": "abc"}, {"text": "def"})
    split = gzip.compress(data[:9]) + gzip.compress(data[9:])
    assert [item.text for item in items_of(tmp_path, split, "a.jsonl.gz")] == ["abc", "def"]


def test_damaged_member_of_lines_loses_its_own_lines_only(tmp_path):
    parts = [
        bytearray(gzip.compress(lines(*({"text": f"{part}-{row}"} for row in range(3))), mtime=0))
        for part in range(3)
    ]
    parts[1][-6] ^= 255  # checksum
    items = items_of(tmp_path, b"".join(parts), "a.jsonl.gz")
    texts = [item.text for item in items if isinstance(item, Document)]
    assert {text for text in texts if text[0] != "1"} == {
        f"{part}-{row}" for part in (0, 2) for row in range(3)
    }
    assert [rule_of(item) for item in items if isinstance(item, Rejected)] == ["gzip"]


def test_parquet_with_times_and_nested_columns(tmp_path):
    row = {"text": "abc", "timestamp": datetime(2020, 1, 2, 3, tzinfo=UTC), "meta": {"url": URL}}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "a.parquet")
    [document] = items_of(tmp_path, b"", "a.parquet")
    assert document.origin.date == "2020-01-02T03:00:00+00:00"
    assert document.origin.url == URL


def test_parquet_without_the_column_rejects_each_row(tmp_path):
    rows = [{"body": "abc", "url": URL} for _ in range(5)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    items = items_of(tmp_path, b"", "a.parquet")
    assert [rule_of(item) for item in items] == ["text column"] * 5
    assert {item.origin.url for item in items} == {URL}


def test_damaged_row_group_of_parquet_loses_its_own_rows_only(tmp_path):
    rows = [{"text": f"{number} " + "words " * 50} for number in range(90)]
    file = tmp_path / "a.parquet"
    pq.write_table(
        pa.Table.from_pylist(rows), file, row_group_size=30, use_dictionary=False,
        write_page_checksum=True, compression="none",
    )  # fmt: skip
    group = pq.ParquetFile(file).metadata.row_group(1).column(0)
    data = bytearray(file.read_bytes())
    place = group.data_page_offset + group.total_compressed_size - 3
    data[place] ^= 1
    file.write_bytes(bytes(data))
    items = items_of(tmp_path, b"", "a.parquet")
    assert len(items) == 90
    assert [item.text for item in (*items[:30], *items[60:])] == [
        row["text"] for row in (*rows[:30], *rows[60:])
    ]
    assert {rule_of(item) for item in items[30:60]} == {"parquet"}


def test_large_page_of_parquet_costs_its_row_group_only(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "MAX_PAGE_BYTES", 2 << 20)
    file = tmp_path / "a.parquet"
    with pq.ParquetWriter(file, pa.schema([("text", pa.string())]), compression="zstd") as writer:
        for texts in (["a"], ["b", "c" * (3 << 20), "d"], ["e"]):
            writer.write_table(pa.table({"text": texts}))
    items = items_of(tmp_path, b"", "a.parquet")
    assert [item.text for item in (items[0], items[4])] == ["a", "e"]
    assert [rule_of(item) for item in items[1:4]] == ["parquet page"] * 3


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("compression", ["none", "snappy", "zstd", "gzip"])
@pytest.mark.parametrize("dictionary", [False, True])
def test_largest_page_is_found(tmp_path, version, compression, dictionary):
    """Pages of 1, 50 and 3 texts of 10,000 characters, with statistics in their headers."""
    file = tmp_path / "a.parquet"
    texts = [f"{number % 60} " + "ab " * 3300 for number in range(54)]
    pq.write_table(
        pa.table({"text": texts, "n": list(range(54))}), file, data_page_version=version,
        compression=compression, use_dictionary=dictionary, data_page_size=400_000,
        write_batch_size=1, write_statistics=True,
    )  # fmt: skip
    about = pq.ParquetFile(file).metadata.row_group(0).column(0)
    start = about.dictionary_page_offset or about.data_page_offset
    with file.open("rb") as opened:
        largest = largest_page(opened, start, about.total_compressed_size)
        assert 400_000 < largest < (560_000 if dictionary else 430_000)
        for wrong in (start + 1, start + about.total_compressed_size - 3):
            with pytest.raises(PageHeaderError):
                largest_page(opened, wrong, about.total_compressed_size)


@settings(max_examples=60, deadline=None)
@given(content=st.binary(max_size=200))
def test_any_bytes_as_page_headers(content):
    with contextlib.suppress(PageHeaderError):
        largest_page(io.BytesIO(content), 0, len(content))


@pytest.mark.parametrize("data", [b"PAR1 no table", b"PAR1" + bytes(100) + b"PAR1"])
def test_file_that_is_not_parquet(tmp_path, data):
    [item] = items_of(tmp_path, data, "a.parquet")
    assert rule_of(item) == "parquet"


def test_empty_parquet_gives_nothing(tmp_path):
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "a.parquet")
    assert items_of(tmp_path, b"", "a.parquet") == []
