"""URLs are judged by lists of domains and URLs, and by words; lists are stored as hashes."""

from pathlib import Path

import pytest

from tests.support.errors import refused
from training.corpus.document import CorpusError, Stage
from training.corpus.quality import url_lists
from training.corpus.quality.url_lists import HashSet, UrlLists, hashed_lists, write_hashes
from training.corpus.quality.urls import UrlFilter
from training.data.packages import DataError

DOMAINS = """# comment
bad.example.com
listed.co.uk
b.c.listed.org

192.0.2.7
"""


@pytest.fixture(scope="module")
def lists(tmp_path_factory: pytest.TempPathFactory) -> UrlLists:
    tmp_path = tmp_path_factory.mktemp("lists")
    source = tmp_path / "source"
    for category in ("adult", "gambling"):
        (source / category).mkdir(parents=True)
    (source / "adult" / "domains").write_text(DOMAINS)
    (source / "gambling" / "domains").write_text("casino.example\n")
    (source / "gambling" / "urls").write_text("shop.example.org/poker/room\n")
    folder = hashed_lists(source, tmp_path / "hashed")
    words = {
        "banned_words": frozenset({"filthy"}),
        "soft_banned_words": frozenset({"hot", "babe"}),
        "banned_subwords": frozenset({"sexcam"}),
    }
    return UrlLists((folder,), words)


@pytest.fixture(scope="module")
def both(lists: UrlLists) -> UrlFilter:
    return UrlFilter(lists, ("adult", "gambling"))


@pytest.mark.parametrize(
    ("url", "rule"),
    [
        ("https://listed.co.uk/page", "listed domain"),
        ("https://a.b.listed.co.uk/page", "listed domain"),
        ("https://user:secret@listed.co.uk:8080/page", "listed domain"),
        ("http://bad.example.com", "listed subdomain"),
        ("https://a.bad.example.com/", "listed parent domain"),
        ("https://a.b.c.listed.org", "listed parent domain"),
        ("http://192.0.2.7/index.html", "listed host"),
        ("https://shop.example.org/poker/room", "listed url"),
        ("shop.example.org/poker/room", "listed url"),
        ("https://example.org/so-filthy.html", "banned word"),
        ("https://example.org/hot/babe", "soft banned words"),
        ("https://my-sex-cam.example.org/", "banned subword"),
        ("https://example.com/bad", ""),
        ("https://co.uk/", ""),
        ("https://notlisted.co.uk/", ""),
        ("https://c.listed.org/", ""),
        ("https://192.0.2.8/", ""),
        ("https://shop.example.org/poker/room/2", ""),
        ("https://example.org/filthyrich", ""),
        ("https://example.org/hot", ""),
        ("http://[2001:db8::1]/", ""),
        ("", ""),
    ],
)
def test_url(both: UrlFilter, url: str, rule: str) -> None:
    verdict = both(url)
    assert (verdict.rule if verdict else "") == rule
    assert verdict is None or verdict.stage is Stage.URL


def test_verdict_names_the_category_and_never_the_url(lists: UrlLists) -> None:
    verdict = UrlFilter(lists, ("gambling",))("https://casino.example/a")
    assert verdict is not None
    assert verdict.value == "gambling"


def test_categories_are_chosen(lists: UrlLists) -> None:
    only = UrlFilter(lists, ("gambling",))
    assert only("https://listed.co.uk/") is None
    assert only("https://example.org/so-filthy.html") is None


def test_unknown_category_is_refused(lists: UrlLists) -> None:
    with refused(CorpusError, field="url_categories", limit="adult, gambling"):
        UrlFilter(lists, ("wepaons",))


def test_lists_of_the_operator_are_added_to_those_of_the_same_category(
    lists: UrlLists, tmp_path: Path
) -> None:
    (tmp_path / "source" / "adult").mkdir(parents=True)
    (tmp_path / "source" / "adult" / "domains").write_text("Other.Example\n2001:db8::1\n#a/b\n")
    own = hashed_lists(tmp_path / "source", tmp_path / "hashed")
    both = UrlFilter(UrlLists((*lists.folders, own), lists.words))
    for url in ("https://other.example/", "https://listed.co.uk/", "https://a.org/so-filthy.html"):
        verdict = both(url)
        assert verdict is not None
        assert verdict.value in ("adult", "")


def test_changed_lists_replace_the_earlier_ones(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "hashed"
    (source / "spam").mkdir(parents=True)
    (source / "spam" / "domains").write_text("a.example\n")
    first = hashed_lists(source, target)
    assert hashed_lists(source, target) == first
    (source / "spam" / "domains").write_text("b.example\n")
    second = hashed_lists(source, target)
    assert list(target.iterdir()) == [second]
    assert second != first


@pytest.mark.parametrize(
    "entry", ["https://a.example", "a.example/x", "a.example:80", "a b", "u@h"]
)
def test_entry_of_domains_that_matches_nothing_is_refused(tmp_path: Path, entry: str) -> None:
    (tmp_path / "spam").mkdir()
    (tmp_path / "spam" / "domains").write_text(f"good.example\n{entry}\n")
    with pytest.raises(CorpusError) as raised:
        hashed_lists(tmp_path, tmp_path / "hashed")
    assert raised.value.field == "url_lists"
    assert "spam/domains:2" in raised.value.text
    assert entry not in raised.value.text


def test_folder_without_lists_is_refused(tmp_path: Path) -> None:
    with refused(CorpusError, field="url_lists", reason="EMPTY"):
        hashed_lists(tmp_path, tmp_path / "hashed")
    with refused(CorpusError, field="url_lists", reason="MISSING"):
        hashed_lists(tmp_path / "none", tmp_path / "hashed")


def test_hashes_find_exactly_their_entries(tmp_path: Path) -> None:
    entries = [f"host{number}.example" for number in range(2000)]
    assert write_hashes([f" {one}\n" for one in entries * 2], tmp_path / "all.u64") == 2000
    hashes = HashSet(tmp_path / "all.u64")
    assert len(hashes) == 2000
    assert all(one in hashes for one in entries)
    assert not any(f"other{number}.example" in hashes for number in range(2000))
    assert (tmp_path / "all.u64").stat().st_size == 8 * 2000


def test_empty_list_contains_nothing(tmp_path: Path) -> None:
    write_hashes([], tmp_path / "none.u64")
    assert "a.example" not in HashSet(tmp_path / "none.u64")


def test_missing_hashes_in_a_read_only_cache_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root ignores the mode of a folder, so the answer of the system is replaced."""
    monkeypatch.setenv("THUMBWHEEL_CACHE", str(tmp_path))
    url_lists.home_of(url_lists.LOCK).mkdir(parents=True)
    monkeypatch.setattr(url_lists.os, "access", lambda path, mode: False)
    with refused(DataError, field="url_categories"):
        url_lists.packaged_lists()
