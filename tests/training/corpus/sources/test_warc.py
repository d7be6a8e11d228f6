"""WARC and WET files: valid forms, and damage that must not lose another record."""

from __future__ import annotations

import gzip
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import brotli
import pytest
import zstandard
from fastwarc.stream_io import GzipWriter
from fastwarc.warc import WarcRecord, WarcRecordType
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.archives import (
    HEAD,
    gzip_members,
    page_text,
    page_url,
    response_record,
    warc_record,
)
from training.corpus.crawl.archive import Archive
from training.corpus.document import Document, Item, Page, Rejected
from training.corpus.sources import members
from training.corpus.sources.config import SourceConfig
from training.corpus.sources.reading import read

RECORDS = [response_record(number) for number in range(6)]
MEMBERS = gzip_members(RECORDS)
LIMIT = 1 << 20


def items_of(folder: Path, data: bytes, name: str = "a.warc.gz", limit: int = LIMIT) -> list[Item]:
    file = folder / name
    file.write_bytes(data)
    source = SourceConfig("crawl", folder, licence="CC0-1.0", max_record_bytes=limit)
    return list(read(source, file))


def urls(items: Sequence[Item]) -> list[str]:
    return [item.origin.url for item in items if not isinstance(item, Rejected)]


def rules(items: Sequence[Item]) -> list[tuple[str, str]]:
    return [(item.origin.url, item.verdict.rule) for item in items if isinstance(item, Rejected)]


def pages(*numbers: int) -> list[str]:
    return [page_url(number) for number in numbers]


def test_page_has_its_origin_content_and_type(tmp_path):
    [page] = items_of(tmp_path, MEMBERS[3])
    assert isinstance(page, Page)
    assert page.content == page_text(3)
    assert page.content_type == "text/html; charset=utf-8"
    assert page.origin.url == page_url(3)
    assert page.origin.date == "2026-01-02T03:04:05Z"
    assert (page.origin.source, page.origin.licence) == ("crawl", "CC0-1.0")


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.warc", b"".join(RECORDS)),
        ("a.warc.gz", b"".join(MEMBERS)),
        ("one-member.warc.gz", gzip.compress(b"".join(RECORDS))),
        ("a.warc.zst", b"".join(zstandard.compress(record) for record in RECORDS)),
        ("one-frame.warc.zst", zstandard.compress(b"".join(RECORDS))),
        ("padded.warc.gz", b"".join(MEMBERS) + bytes(100_000)),
        ("plain-named.warc.gz", b"".join(RECORDS)),
        ("v11.warc", b"".join(record.replace(b"WARC/1.0", b"WARC/1.1") for record in RECORDS)),
        ("lines.warc", b"".join(record.replace(b"\r\n", b"\n") for record in RECORDS)),
        ("tight.warc", b"".join(record.removesuffix(b"\r\n\r\n") for record in RECORDS)),
    ],
)
def test_valid_forms_give_the_same_pages(tmp_path, name, data):
    if name == "lines.warc":
        # The replacement shortened the blocks.
        data = b"".join(
            warc_record(HEAD.replace(b"\r", b"") + b"\n" + page_text(n), page_url(n))
            for n in range(6)
        ).replace(b"\r\n", b"\n")
    items = items_of(tmp_path, data, name)
    assert urls(items) == pages(*range(6))
    assert [item.content for item in items] == [page_text(number) for number in range(6)]


def test_file_with_a_dictionary_in_its_first_frame(tmp_path):
    dictionary = zstandard.train_dictionary(
        2048, [response_record(n % 50, page_text(n)) for n in range(400)]
    )
    compressor = zstandard.ZstdCompressor(dict_data=dictionary)
    stored = zstandard.compress(dictionary.as_bytes())
    frames = [compressor.compress(record) for record in RECORDS]
    first = (0x184D2A5D).to_bytes(4, "little") + len(stored).to_bytes(4, "little") + stored
    items = items_of(tmp_path, first + b"".join(frames), "a.warc.zst")
    assert urls(items) == pages(*range(6))


def test_records_of_fastwarc(tmp_path):
    with (tmp_path / "a.warc.gz").open("wb") as opened:
        writer = GzipWriter(opened)
        for number in range(6):
            record = WarcRecord()
            record.init_headers(WarcRecordType.response)
            record.headers["WARC-Target-URI"] = page_url(number)
            record.set_bytes_content(HEAD + b"\r\n" + page_text(number))
            record.headers["Content-Type"] = "application/http; msgtype=response"
            record.write(writer)
        writer.finish()
    items = items_of(tmp_path, (tmp_path / "a.warc.gz").read_bytes())
    assert urls(items) == pages(*range(6))


def test_archive_of_our_crawler(tmp_path):
    archive = Archive(tmp_path, 1 << 20, "agent (https://site.example/contact)")
    headers = ((b"Content-Type", b"text/html"), (b"Content-Encoding", b"gzip"))
    for number in range(3):
        archive.append_page(
            page_url(number), "HTTP/1.1 200 OK", headers, page_text(number), "127.0.0.1"
        )
    archive.close()
    source = SourceConfig("crawl", tmp_path)
    items = [item for file in source.list_files() for item in read(source, file)]
    assert urls(items) == pages(0, 1, 2)
    assert [item.content for item in items] == [page_text(number) for number in range(3)]


def test_wet_gives_documents(tmp_path):
    text = "Ein Satz über Äpfel.\nНовая строка."
    data = warc_record(text.encode(), page_url(1), "conversion", media="text/plain")
    [document] = items_of(tmp_path, gzip.compress(data), "a.warc.wet.gz")
    assert isinstance(document, Document)
    assert document.text == text


def test_descriptive_records_are_not_numbered(tmp_path):
    data = b"".join(
        [
            warc_record(b"software: x", None, "warcinfo", media="application/warc-fields"),
            warc_record(b"GET / HTTP/1.1\r\n\r\n", page_url(0), "request"),
            RECORDS[0],
            warc_record(b"fetchTimeMs: 3", page_url(0), "metadata"),
            RECORDS[1],
        ]
    )
    assert urls(items_of(tmp_path, data, "a.warc")) == pages(0, 1)


@pytest.mark.parametrize(
    ("record", "rule"),
    [
        (warc_record(b"", page_url(9), "revisit"), "revisit"),
        (warc_record(b"x", page_url(9), "continuation"), "record type"),
        (warc_record(HEAD + b"\r\nabc"), "url"),
        (warc_record(HEAD + b"\r\nabc", "http://h/" + "a" * 9000), "url"),
        (warc_record(b"a dns answer", page_url(9), media="text/dns"), "record content type"),
        (warc_record(b"no http", page_url(9)), "http head"),
        (warc_record(b"HTTP/1.1 200 OK\r\nA: " + b"a" * 70_000, page_url(9)), "http head"),
        (warc_record(b"HTTP/1.1 404 No\r\n\r\nabc", page_url(9)), "http status"),
        (response_record(9, b""), "empty body"),
        (warc_record(b"", page_url(9), "conversion", media="text/plain"), "empty body"),
        (response_record(9, length="x"), "record header"),
        (response_record(9, length=-1), "record header"),
        (response_record(9, length="9" * 5000), "record header"),
        (response_record(9, length=100), "content length"),
        (response_record(9, length=100_000), "truncated"),
        (response_record(9, length=10**15), "truncated"),
        (response_record(9, headers=["X: " + "a" * 100_000]), "record header"),
        (response_record(9, bytes(2 * LIMIT)), "record size"),
        (b"neither record nor text\r\n" * 10, "record header"),
    ],
)
@pytest.mark.parametrize("form", ["a.warc", "a.warc.gz", "a.warc.zst"])
def test_wrong_record_is_named_and_no_other_is_lost(tmp_path, record, rule, form):
    parts = [RECORDS[0], record, RECORDS[1], RECORDS[2]]
    if form.endswith(".gz"):
        parts = gzip_members(parts)
    elif form.endswith(".zst"):
        parts = [zstandard.compress(part) for part in parts]
    items = items_of(tmp_path, b"".join(parts), form)
    assert urls(items) == pages(0, 1, 2)
    assert [found for _, found in rules(items)] == [rule]
    assert isinstance(items[1], Rejected)


def test_record_cut_by_the_end_of_the_file(tmp_path):
    for end in (-1, -5, -30, -len(MEMBERS[5]) + 5):
        items = items_of(tmp_path, b"".join(MEMBERS)[:end])
        assert urls(items) == pages(*range(5))
        assert [rule for _, rule in rules(items)] == ["truncated"]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damaged_bytes_lose_their_member_only(tmp_path_factory, data):
    """Any change of the bytes of a member leaves all other members readable."""
    hit = data.draw(st.integers(0, 5), "member")
    place = data.draw(st.integers(0, len(MEMBERS[hit]) - 1), "byte")
    change = data.draw(st.integers(1, 255), "change")
    member = bytearray(MEMBERS[hit])
    member[place] ^= change
    cut = data.draw(st.integers(0, 40), "lost bytes")
    parts = [*MEMBERS[:hit], bytes(member[: len(member) - cut]), *MEMBERS[hit + 1 :]]
    items = items_of(tmp_path_factory.mktemp("warc"), b"".join(parts))
    others = pages(*(number for number in range(6) if number != hit))
    assert [url for url in urls(items) if url != page_url(hit)] == others
    damaged = [item for item in items if item.origin.url not in others]
    assert damaged


@settings(max_examples=60, deadline=None)
@given(
    place=st.integers(0, sum(map(len, RECORDS)) - 1),
    content=st.binary(max_size=40),
    replaced=st.integers(0, 400),
)
def test_damaged_bytes_of_a_plain_file_lose_neighbours_at_most(
    tmp_path_factory, place, content, replaced
):
    """A change inside of a record leaves all but those that it touches."""
    data = b"".join(RECORDS)
    changed = data[:place] + content + data[place + replaced :]
    items = items_of(tmp_path_factory.mktemp("warc"), changed, "a.warc")
    ends = [sum(map(len, RECORDS[: number + 1])) for number in range(6)]
    untouched = [
        page_url(number)
        for number, end in enumerate(ends)
        if end <= place or end - len(RECORDS[number]) >= place + replaced
    ]
    assert set(untouched) <= set(urls(items))


def test_damaged_member_names_rule_and_url(tmp_path):
    member = bytearray(MEMBERS[2])
    member[-6] ^= 255  # checksum
    items = items_of(tmp_path, b"".join([*MEMBERS[:2], bytes(member), *MEMBERS[3:]]))
    assert rules(items) == [(page_url(2), "gzip")]
    frames = [zstandard.ZstdCompressor(write_checksum=True).compress(part) for part in RECORDS]
    frame = bytearray(frames[2])
    frame[-2] ^= 255
    items = items_of(tmp_path, b"".join([*frames[:2], bytes(frame), *frames[3:]]), "a.warc.zst")
    assert urls(items) == pages(0, 1, 3, 4, 5)
    assert [rule for _, rule in rules(items)] == ["zstd"]


def test_archive_inside_of_a_damaged_record_is_not_read(tmp_path):
    """A stored page that is itself compressed looks like a member."""
    inner = gzip.compress(b"packed data " * 20)
    stored = bytearray(gzip.compress(response_record(9, inner), 0))
    assert inner in stored
    stored[-6] ^= 255  # checksum
    items = items_of(tmp_path, MEMBERS[0] + bytes(stored) + MEMBERS[1])
    assert urls(items) == pages(0, 1)
    assert rules(items) == [(page_url(9), "gzip")]


def test_length_that_ends_inside_of_the_next_record(tmp_path):
    """The block ends in front of the empty line after the next record's HTTP head."""
    block = len(HEAD + b"\r\n" + page_text(0))
    length = block + 4 + RECORDS[1].index(HEAD) + len(HEAD) - 2
    data = response_record(0, length=length) + b"".join(RECORDS[1:3])
    items = items_of(tmp_path, data, "a.warc")
    assert rules(items) == [(page_url(0), "content length")]
    assert urls(items) == pages(1, 2)


def test_bomb_is_skipped(tmp_path, monkeypatch):
    monkeypatch.setattr(members, "RATIO_FROM_BYTES", 4 << 20)
    bomb = response_record(9, bytes(8 << 20))
    data = b"".join([MEMBERS[0], gzip.compress(bomb, 1), MEMBERS[1]])
    items = items_of(tmp_path, data)
    assert urls(items) == pages(0, 1)
    assert rules(items) == [(page_url(9), "compression ratio")]


def test_zstd_bomb_and_long_window_are_skipped(tmp_path, monkeypatch):
    monkeypatch.setattr(members, "RATIO_FROM_BYTES", 4 << 20)
    bomb = zstandard.compress(response_record(9, bytes(8 << 20)))
    window = zstandard.ZstdCompressionParameters.from_level(1, window_log=29)
    writer = zstandard.ZstdCompressor(compression_params=window).compressobj()
    wide = writer.compress(RECORDS[3]) + writer.flush()
    parts = [zstandard.compress(RECORDS[0]), bomb, wide, zstandard.compress(RECORDS[1])]
    items = items_of(tmp_path, b"".join(parts), "a.warc.zst")
    assert urls(items) == pages(0, 1)
    assert [rule for _, rule in rules(items)] == ["compression ratio", "zstd window"]


def quick_brotli(content: bytes) -> bytes:
    return brotli.compress(content, quality=1)


def raw_deflate(content: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-15)
    return compressor.compress(content) + compressor.flush()


def chunked(content: bytes) -> bytes:
    half = len(content) // 2
    parts = (content[:half], content[half:])
    return b"".join(b"%x;x=y\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


@pytest.mark.parametrize(
    ("headers", "encode"),
    [
        (b"Content-Encoding: gzip\r\n", gzip.compress),
        (b"Content-Encoding: x-gzip\r\n", gzip.compress),
        (b"content-encoding:DEFLATE\r\n", zlib.compress),
        (b"Content-Encoding: deflate\r\n", raw_deflate),
        (b"Content-Encoding: br\r\n", brotli.compress),
        (b"Content-Encoding: br, gzip\r\n", lambda text: gzip.compress(brotli.compress(text))),
        (b"Transfer-Encoding: chunked\r\n", chunked),
        (
            b"Transfer-Encoding: chunked\r\nContent-Encoding: gzip\r\n",
            lambda text: chunked(gzip.compress(text)),
        ),
        # Common Crawl stored contents without codings under the headers of the server.
        (b"Content-Encoding: gzip\r\n", bytes),
        (b"Content-Encoding: deflate\r\n", bytes),
        (b"Content-Encoding: br\r\n", bytes),
        (b"Transfer-Encoding: chunked\r\n", bytes),
        (b"Content-Encoding: identity\r\n", bytes),
    ],
)
def test_codings_of_http_are_undone(tmp_path, headers, encode):
    data = response_record(1, encode(page_text(1)), HEAD + headers)
    [page] = items_of(tmp_path, data, "a.warc")
    assert page.content == page_text(1)


def test_cut_codings_keep_the_beginning(tmp_path):
    text = b"".join(page_text(number) for number in range(400))
    for name, encode in (("gzip", gzip.compress), ("br", quick_brotli)):
        coded = encode(text)[: -len(encode(text)) // 4]
        head = HEAD + b"Content-Encoding: " + name.encode() + b"\r\n"
        [page] = items_of(tmp_path, response_record(1, coded, head), "a.warc")
        assert len(page.content) > len(text) // 4
        assert text.startswith(page.content)


@pytest.mark.parametrize("name", ["gzip", "deflate", "br"])
def test_bomb_in_a_content_coding_is_bounded(tmp_path, name):
    encode = {"gzip": gzip.compress, "deflate": zlib.compress, "br": quick_brotli}[name]
    coded = encode(bytes(4 * LIMIT))
    head = HEAD + b"Content-Encoding: " + name.encode() + b"\r\n"
    data = response_record(1, coded, head) + RECORDS[2]
    items = items_of(tmp_path, data, "a.warc")
    assert rules(items) == [(page_url(1), "content size")]
    assert urls(items) == pages(2)


def test_every_record_gives_one_item(tmp_path):
    """Items of a mixed file add up to its numbered records."""
    records = [*RECORDS, warc_record(b"", page_url(8), "revisit"), response_record(9, b"")]
    items = items_of(tmp_path, b"".join(gzip_members(records)))
    assert Counter(type(item).__name__ for item in items) == {"Page": 6, "Rejected": 2}


def test_url_in_angle_brackets(tmp_path):
    data = warc_record(HEAD + b"\r\n<p>abc", f"<{page_url(1)}>")
    assert urls(items_of(tmp_path, data, "a.warc")) == pages(1)


def test_resource_is_a_page(tmp_path):
    data = warc_record(page_text(1), page_url(1), "resource", media="text/html")
    [page] = items_of(tmp_path, data, "a.warc")
    assert (page.content, page.content_type) == (page_text(1), "text/html")


@pytest.mark.parametrize("data", [b"", b"no archive at all\n" * 10, bytes(1000)])
@pytest.mark.parametrize("name", ["a.warc", "a.warc.gz", "a.warc.zst"])
def test_file_that_is_no_archive(tmp_path, data, name):
    items = items_of(tmp_path, data, name)
    assert len(items) <= 1
    assert not urls(items)
    assert bool(items) == bool(data.strip(b"\0")) or name == "a.warc"
