"""The site of the tour: all pages are reachable from the seeds, and texts are escaped."""

import re
import urllib.request
from pathlib import Path

import pytest

from infra.install.documentation import MANUALS
from infra.life.site import (
    ADDRESS,
    PAGE_ARTICLES,
    SiteError,
    article_seeds,
    manual_seeds,
    serve,
    write_site,
)

LINK = re.compile(r'href="([^"]+)"')


def manuals(folder: Path) -> Path:
    for seed in manual_seeds():
        page = folder / "manuals" / seed
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(f"<p>{seed}</p>")
    return folder / "manuals"


def test_seeds_are_served_and_lead_to_all_articles(tmp_path: Path) -> None:
    articles = [
        {"title": f"Title {n}", "topic": f"topic {n % 2}", "extract": f"<b>Text {n}."}
        for n in range(2 * PAGE_ARTICLES + 2)
    ]
    write_site(tmp_path / "site", manuals(tmp_path), articles)
    with serve(tmp_path / "site") as port:

        def read(path: str) -> str:
            with urllib.request.urlopen(f"http://{ADDRESS}:{port}/{path}") as answer:
                return str(answer.read().decode())

        for seed in manual_seeds():
            assert read(seed) == f"<p>{seed}</p>"
        (seed,) = article_seeds()
        folder = seed.rpartition("/")[0]
        pages = [read(f"{folder}/{name}") for name in LINK.findall(read(seed))[1:]]
        assert "Disallow" in read("robots.txt")
    assert len(pages) == 4
    text = "".join(pages)
    assert all(f"&lt;b&gt;Text {n}." in text for n in range(len(articles)))
    assert {manual.name for manual in MANUALS} <= {
        path.name for path in (tmp_path / "site").iterdir()
    }


def test_port_in_use_is_refused(tmp_path: Path) -> None:
    with serve(tmp_path) as port, pytest.raises(SiteError, match=str(port)), serve(tmp_path, port):
        pass
