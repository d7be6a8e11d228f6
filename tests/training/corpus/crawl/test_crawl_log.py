"""The row of a URL in a crawl log."""

import random
from pathlib import Path

import pytest

from training.corpus.crawl.crawl_log import find_row, write_log
from training.corpus.crawl.fates import Fate
from training.corpus.crawl.frontier import Frontier, Result, Target


def write(folder: Path, urls: list[str]) -> Path:
    frontier = Frontier(folder)
    frontier.admit([(Target(url, 1), Result(Fate.ROBOTS, url[-20:])) for url in urls])
    write_log(frontier, folder / "log.jsonl")
    frontier.close()
    return folder / "log.jsonl"


@pytest.mark.parametrize("count", [1, 2, 3, 200])
def test_each_url_is_found(tmp_path: Path, count: int) -> None:
    draw = random.Random(count)
    urls = [f"http://site.test/{n}/{'%C3%A9' * draw.choice((0, 3, 300))}" for n in range(count)]
    log = write(tmp_path, urls)
    for url in urls:
        row = find_row(log, url)
        assert row is not None
        assert row["value"] == url[-20:]
    for number in range(100):
        assert find_row(log, f"http://other.test/{number}") is None


def test_url_is_found_in_other_spellings(tmp_path: Path) -> None:
    log = write(tmp_path, ["http://site.test/a", "http://[broken"])
    assert find_row(log, "HTTP://Site.test:80/b/../a#part") == find_row(log, "http://site.test/a")
    assert find_row(log, "http://[broken") is not None


def test_empty_log_has_no_row(tmp_path: Path) -> None:
    assert find_row(write(tmp_path, []), "http://site.test/") is None
