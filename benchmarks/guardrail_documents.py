"""Refused share of ordinary texts and of attacks: `python -m benchmarks.guardrail_documents`.

The first table has kinds of ordinary texts by length, the second attacks: alone, and embedded at
the start, in the middle and at the end of ordinary texts. Texts are excerpts of the packages of
locks/dev.txt, of the manuals of locks/documentation.sha256, of the pages in docs/, and of grammars
in guardrail_texts/ that share no sentence with those of the recipe. Texts are never printed. Kinds
whose texts differ from those of guardrail_texts/corpora.sha256, for example with another release of
Python, are named, because their figures cannot be compared; `--pin` writes that file.
"""

import argparse
import functools
import hashlib
import json
import random
import re
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import metadata
from pathlib import Path

from infra.install import documentation
from services.contracts.chat import Action
from services.guardrail.cascade import read_cascade
from services.guardrail.guard import Guard
from services.guardrail.settings import ENCODER_DIRECTORY, WEIGHTS_DIRECTORY
from training.corpus.document import Document, Origin, Page
from training.corpus.extraction import extract
from training.data.packages import installed
from training.recipes.guardrail.documents import Grammar, excerpts
from training.recipes.guardrail.evaluation import TextSet, evaluation_sets, wilson_interval
from training.recipes.guardrail.recipe import EVALUATION_LOCK

LENGTHS = (60, 300, 1_500, 6_000, 32_000)
COUNT = 200
# Attacks of one set that are embedded at one position in texts of one length.
EMBEDDED = 60
# Sets of which a smaller share is refused alone are not embedded.
LEAST_SHARE = 0.1
COMPOSED = 400
SHORTEST_FILE, LONGEST_FILE = 400, 400_000
REPOSITORY = Path(__file__).resolve().parents[1]
GRAMMARS = Path(__file__).parent / "guardrail_texts"
DIGESTS = GRAMMARS / "corpora.sha256"
OUR_PAGES = "pages of docs/"  # those of this commit, not pinned
OTHER_LANGUAGES = (
    *("c", "cc", "cjs", "cpp", "css", "cu", "cuh", "f", "f90", "h", "hpp", "html", "js"),
    *("mjs", "proto", "pxd", "pyx", "rs", "sh", "tmpl", "toml", "ts", "yaml"),
)
SECTION = re.compile(r"^(?=#{1,3} )|^(?=[^\n]+\n(?:=|-){4,}\n)", re.MULTILINE)
# Half of the texts have a request before them, as a person would send them.
CODE_REQUESTS = ("Please review this code:\n", "What does this do?\n\n")
TEXT_REQUESTS = ("Summarise this:\n", "Translate into German:\n\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, default=WEIGHTS_DIRECTORY)
    parser.add_argument("--encoder", type=Path, default=ENCODER_DIRECTORY)
    parser.add_argument("--count", type=int, default=COUNT, help="texts of a kind and length")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--only", choices=("documents", "attacks"))
    parser.add_argument("--pin", action="store_true", help="record the digests of the texts, only")
    options = parser.parse_args()
    if options.pin:
        DIGESTS.write_text("".join(f"{value}  {name}\n" for name, value in digests().items()))
        return
    report_other_texts()
    guard = Guard(read_cascade(options.weights, options.encoder), "US", lambda stage, verdict: None)

    def refuses(text: str) -> bool:
        return guard.judge_input([text]).action is Action.BLOCK

    figures: dict[str, list[int]] = {}
    if options.only != "attacks":
        figures |= measure_documents(refuses, options.count)
    if options.only != "documents":
        figures |= measure_attacks(refuses)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


def digests() -> dict[str, str]:
    """Return the SHA-256 of all texts of each pinned kind."""
    return {
        name: hashlib.sha256("\0".join(sorted(documents)).encode()).hexdigest()
        for name, documents in kinds().items()
        if name != OUR_PAGES
    }


def report_other_texts() -> None:
    """Print the kinds whose texts differ from the recorded ones."""
    lines = (line.split(maxsplit=1) for line in DIGESTS.read_text().splitlines())
    recorded = {name: value for value, name in lines}
    if others := [name for name, value in digests().items() if recorded.get(name) != value]:
        print(f"other texts than recorded, figures not comparable: {', '.join(others)}")


def measure_documents(refuses: Callable[[str], bool], count: int) -> dict[str, list[int]]:
    """Print and return the number of refused texts and of texts by kind and length."""
    print(f"{'refused of ' + str(count):<26}" + "".join(f"{length:>9,}" for length in LENGTHS))
    figures = {}
    for name, documents in kinds().items():
        requests = CODE_REQUESTS if "code" in name or "Python" in name else TEXT_REQUESTS
        row = []
        for length in LENGTHS:
            texts = excerpts(documents, length, count, random.Random(f"{name} {length}"))
            hits = sum(
                refuses(requests[number // 2 % 2] * (number % 2) + text)
                for number, text in enumerate(texts)
            )
            figures[f"{name} {length}"] = [hits, len(texts)]
            row.append(hits)
        print(f"{name:<26}" + "".join(f"{hits:>9}" for hits in row), flush=True)
    return figures


def measure_attacks(refuses: Callable[[str], bool]) -> dict[str, list[int]]:
    """Print and return the number of refused attacks and of attacks by set, length and position."""
    carriers = [text for documents in kinds().values() for text in documents[:40]]
    sets = [one for one in evaluation_sets(installed(EVALUATION_LOCK)) if one.truth != "benign"]
    figures = {}
    for one in sets:
        hits = sum(map(refuses, one.texts))
        figures[f"{one.name} alone"] = [hits, len(one.texts)]
        low, high = wilson_interval(hits, len(one.texts))
        print(
            f"{one.name}, alone: {hits} of {len(one.texts)} ({low:.3f} to {high:.3f})", flush=True
        )
        if hits < LEAST_SHARE * len(one.texts):
            continue
        for length in LENGTHS[1:]:
            row = []
            for position in ("start", "middle", "end"):
                embedded = list(embed(one, carriers, length, position))
                hits = sum(map(refuses, embedded))
                figures[f"{one.name} {position} of {length}"] = [hits, len(embedded)]
                row.append(f"{position} {hits}")
            print(f"  in {length:,} characters, of {len(embedded)}: {', '.join(row)}", flush=True)
    return figures


def embed(attacks: TextSet, carriers: Sequence[str], length: int, position: str) -> Iterator[str]:
    """Yield attacks within ordinary texts of `length` characters."""
    choose = random.Random(f"{attacks.name} {length}")
    sample = choose.sample(attacks.texts, min(EMBEDDED, len(attacks.texts)))
    for attack, carrier in zip(
        sample, excerpts(carriers, length, len(sample), choose), strict=True
    ):
        middle = carrier.find("\n", length // 2) % length
        cut = {"start": 0, "middle": middle, "end": length}[position]
        yield "\n".join(part for part in (carrier[:cut], attack, carrier[cut:]) if part)


@functools.cache
def kinds() -> dict[str, list[str]]:
    """Return the texts of all kinds in a random order."""
    site = Path(sysconfig.get_path("purelib"))
    standard = Path(sysconfig.get_path("stdlib"))
    manuals = documentation.find_installed()
    choose = random.Random(0)
    descriptions = [_description(each) for each in metadata.distributions()]
    licences = [file for file in site.glob("*.dist-info/**/*") if "LICEN" in file.name.upper()]
    texts = {
        "standard library, Python": _read(
            file
            for file in (*standard.glob("*.py"), *standard.glob("*/*.py"))
            if file.parent.name not in ("site-packages", "test")
        ),
        "packages, Python": _read(_sample(site.glob("*/**/*.py"), 2_000)),
        "other code": [
            text
            for suffix in OTHER_LANGUAGES
            for text in _read(_sample(site.glob(f"*/**/*.{suffix}"), 100))
        ],
        "package descriptions": descriptions,
        "their sections": [part for text in descriptions for part in SECTION.split(text)],
        "manuals": [_page(file) for file in _sample(_english(manuals), 1_000)],
        OUR_PAGES: _read(REPOSITORY.glob("docs/**/*.md")),
        "licences": _read(licences),
    }
    for grammar in sorted(GRAMMARS.glob("*.txt")):
        compose = Grammar(grammar).compose
        texts[grammar.stem.replace("_", " ")] = [compose(choose) for _ in range(COMPOSED)]
    result = {}
    for name, documents in texts.items():
        distinct = sorted({text.strip() for text in documents if text.strip()})
        result[name] = choose.sample(distinct, len(distinct))
    return result


def _sample(files: Iterator[Path], count: int) -> list[Path]:
    ordered = sorted(files)
    return random.Random(0).sample(ordered, min(count, len(ordered)))


def _english(manuals: Path) -> Iterator[Path]:
    """Yield the pages of the manuals, of the translated handbook the English one."""
    for manual in documentation.MANUALS:
        yield from (manuals / manual.name / Path(manual.start).parent).rglob("*.html")


def _read(files: Iterable[Path]) -> list[str]:
    return [
        file.read_text(errors="replace")
        for file in sorted(files)
        if file.is_file() and SHORTEST_FILE <= file.stat().st_size <= LONGEST_FILE
    ]


def _page(file: Path) -> str:
    document = extract(Page(Origin(file.name), file.read_bytes(), "text/html"))
    return document.text if isinstance(document, Document) else ""


def _description(distribution: metadata.Distribution) -> str:
    text = distribution.read_text("METADATA") or ""
    return text.partition("\n\n")[2]


if __name__ == "__main__":
    main()
