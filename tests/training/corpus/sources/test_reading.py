"""Settings of a source, detection of kinds, and folders of single texts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path, PurePath

import pytest

from training.corpus.document import (
    CorpusError,
    Document,
    Item,
    Origin,
    Page,
    Rejected,
    Stage,
    Verdict,
    record_id,
)
from training.corpus.sources.config import LARGEST_RECORD_BYTES, Kind, SourceConfig, detect_kind
from training.corpus.sources.reading import read


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("CC-MAIN-1.warc.gz", Kind.WARC),
        ("CC-MAIN-1.warc.wet.gz", Kind.WET),
        ("a.WARC", Kind.WARC),
        ("a.warc.zst", Kind.WARC),
        ("c4-train.00000-of-01024.json.gz", Kind.JSON_LINES),
        ("a.jsonl.zst", Kind.JSON_LINES),
        ("000_00000.parquet", Kind.PARQUET),
        ("a.txt", Kind.TEXT),
        ("a.htm", Kind.HTML),
        ("a.txt.gz", None),
        ("a.gz", None),
        ("a.pdf", None),
        ("robots.txt", None),
    ],
)
def test_kind_by_name(name, kind):
    assert detect_kind(PurePath(name)) == kind


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": ""}, "name"),
        ({"weight": 0}, "weight"),
        ({"weight": float("nan")}, "weight"),
        ({"weight": float("inf")}, "weight"),
        ({"max_record_bytes": 0}, "max_record_bytes"),
        ({"max_record_bytes": LARGEST_RECORD_BYTES + 1}, "max_record_bytes"),
    ],
)
def test_wrong_settings_are_named(tmp_path, changes, field):
    with pytest.raises(CorpusError) as caught:
        SourceConfig(**{"name": "a", "folder": tmp_path, **changes})
    assert caught.value.field == field


def test_files_are_sorted_by_relative_path_and_known_kinds(tmp_path):
    for name in ("b/1.txt", "a.txt", "b/0.html", "c.pdf", "b-1.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    source = SourceConfig("a", tmp_path)
    names = [source.relative_name(file) for file in source.list_files()]
    assert names == ["a.txt", "b-1.txt", "b/0.html", "b/1.txt"]
    only = SourceConfig("a", tmp_path, files=("b/*", "a.txt"))
    assert [file.name for file in only.list_files()] == ["a.txt", "0.html", "1.txt"]
    assert SourceConfig("a", tmp_path, ("*.pdf",), Kind.TEXT).list_files() == [tmp_path / "c.pdf"]


def test_missing_folder_and_no_files(tmp_path):
    for folder, field in ((tmp_path / "none", "folder"), (tmp_path, "files")):
        with pytest.raises(CorpusError) as caught:
            SourceConfig("a", folder).list_files()
        assert caught.value.field == field


def test_file_of_unknown_kind(tmp_path):
    (tmp_path / "a.bin").touch()
    with pytest.raises(CorpusError) as caught:
        read(SourceConfig("a", tmp_path), tmp_path / "a.bin")
    assert caught.value.field == "kind"


def read_one(folder: Path, name: str, content: bytes) -> object:
    (folder / name).write_bytes(content)
    source = SourceConfig("a", folder, licence="MIT", max_record_bytes=1000)
    [item] = read(source, folder / name)
    assert item.origin.licence == "MIT"
    return item


def test_texts_and_pages_of_a_folder(tmp_path):
    text = read_one(tmp_path, "ä b.txt", "Über\n".encode("utf-8-sig"))
    assert isinstance(text, Document)
    assert (text.text, text.origin.url) == ("Über\n", "file:%C3%A4%20b.txt")
    page = read_one(tmp_path, "a.html", b"<p>abc")
    assert isinstance(page, Page)
    assert (page.content, page.content_type) == (b"<p>abc", "text/html")


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (b" \n", "empty text"),
        (b"a" * 1001, "record size"),
        (bytes(range(1, 32)) * 10, "encoding"),
    ],
)
def test_wrong_text_file(tmp_path, content, rule):
    item = read_one(tmp_path, "a.txt", content)
    assert isinstance(item, Rejected)
    assert item.verdict.rule == rule


HERE = Origin("", "https://site.example/a", "web")
PAGE = Page(HERE, b"content", "text/html")


def test_identifier_depends_on_url_and_content_alone():
    later = replace(HERE, date="2026-01-02", licence="MIT", collection="x", id="given")
    assert record_id(replace(PAGE, origin=later)) == record_id(PAGE)

    others: list[Item] = [
        replace(PAGE, origin=replace(HERE, url="https://site.example/b")),
        replace(PAGE, origin=replace(HERE, source="wiki")),
        replace(PAGE, content=b"other"),
        replace(PAGE, content_type="text/plain"),
        Document(HERE, "content"),
        Document(HERE, "text/html\0content"),
        Rejected(HERE, Verdict(Stage.READ, "content")),
        Rejected(HERE, Verdict(Stage.READ, "content", "1")),
    ]
    assert len({record_id(item) for item in (PAGE, *others)}) == 1 + len(others)


def test_identifiers_are_equal_in_other_files_and_places(tmp_path):
    rows = [json.dumps({"text": text}) for text in ("one", "two", "two", "three")]
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    (tmp_path / "b.jsonl").write_text("\n\n" + "\n".join(reversed(rows)))
    source = SourceConfig("a", tmp_path)
    first, second = (
        [item.origin.id for item in read(source, tmp_path / name)]
        for name in ("a.jsonl", "b.jsonl")
    )
    assert first == second[::-1]
    assert len(set(first)) == 3
