"""`thumbwheel life`: from a crawl to a chat model, in the short and in the whole form."""

import json
import signal
import subprocess
import sys
import time
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tests.support.newcomer import Newcomer
from training.recipes.life.page import STEPS

ROOT = Path(__file__).resolve().parents[2]


def command(work: Path, minutes: float) -> list[str]:
    options = ("--work", str(work), "--minutes", str(minutes))
    return [sys.executable, "-m", "thumbwheel_cli", "life", *options]


def finished(work: Path) -> dict[str, Any]:
    return dict(json.loads((work / "life.json").read_text())["steps"])


def headings(page: Path) -> list[str]:
    """Return the texts of all h2 elements."""
    found: list[str] = []

    class Parser(HTMLParser):
        inside = False

        def handle_starttag(self, tag: str, _: object) -> None:
            self.inside = tag == "h2"

        def handle_data(self, data: str) -> None:
            if self.inside:
                found.append(data)

        def handle_endtag(self, _: str) -> None:
            self.inside = False

    Parser().feed(page.read_text())
    return found


def check_whole(work: Path) -> dict[str, Any]:
    steps = finished(work)
    assert tuple(steps) == STEPS
    corpus = steps["corpus"]["figures"]
    assert corpus["records"] == corpus["documents"] + sum(corpus["dropped"].values())
    assert steps["crawl manuals"]["figures"]["fates"]["stored"] > 0
    bits = steps["evaluation"]["figures"]["bits_per_byte"]
    assert all(0 < value < 9 for value in bits.values())
    assert len(headings(work / "life.html")) == 8
    return steps


@pytest.mark.timeout(600)
def test_short_life_continues_after_an_interruption(tmp_path: Path) -> None:
    # A shell starts jobs in the background with SIGINT ignored.
    hear = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    begun = subprocess.Popen(
        command(tmp_path, 0.5), cwd=ROOT, stderr=subprocess.PIPE, text=True, preexec_fn=hear
    )
    with begun as stopped:
        assert stopped.stderr is not None
        for line in stopped.stderr:
            if "crawl articles: started" in line:
                stopped.send_signal(signal.SIGINT)
                break
        rest = stopped.stderr.read()
        assert stopped.wait() == 128 + signal.SIGINT
    assert "the same command continues" in rest
    assert tuple(finished(tmp_path)) == STEPS[:2]
    before = finished(tmp_path)["crawl manuals"]
    subprocess.run(command(tmp_path, 0.5), cwd=ROOT, check=True)
    assert check_whole(tmp_path)["crawl manuals"] == before


@pytest.mark.long
@pytest.mark.timeout(2400)
@pytest.mark.executes("make life")
def test_whole_life_learns(newcomer: Newcomer) -> None:
    began = time.monotonic()
    newcomer.run("make life", seconds=2300)
    steps = check_whole(newcomer.clone / ".state" / "life")
    print(
        f"{time.monotonic() - began:.0f} s", {name: step["seconds"] for name, step in steps.items()}
    )
    found = steps["evaluation"]["figures"]
    assert found["bits_per_byte"]["base"] < 3
    assert found["chats"]["ppo"]["preferred"] > found["chats"]["sft"]["preferred"]
