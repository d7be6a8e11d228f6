"""Readability rules for code and prose: `python -m infra.check.readability [--figures]`.

Limits apply in both directions, so that neither long functions nor fragments pile up. `--figures`
prints figures for a comparison with other codebases; most of them have no limit. ruff checks the
width of lines.
"""

import argparse
import ast
import io
import re
import statistics
import subprocess
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PRODUCT = (
    *("services", "training", "sequential", "human_evaluation", "chat_format"),
    *("durable_files", "secret_detection", "s3_credentials", "infra"),
)
CODE = (*PRODUCT, "thumbwheel_cli", "tests", "benchmarks")
SHORT_MODULE_LINES = 40
MAX_MODULES_IN_FOLDER = 15
MIN_DOCSTRING_WORDS = 4
MAX_SUBJECT = 72
SUBJECTS_SINCE = "2026-11-28T12:00:00Z"
MIN_COMMENTS_PER_100_LINES = 3.0

# Modules whose difficulty needs explanations beside the code: protocols, concurrency, numerics.
HARD_MODULES = (
    "services/chassis/admission.py",
    "services/feedback/lake/ledger.py",
    "services/feedback/spool/spool.py",
    "services/gateway/answering/output_guard.py",
    "services/predictor/engine/pipeline.py",
    "training/stages/ppo.py",
)

BANNED = re.compile(r"\b(anew|whoever|nobody|for ever|is told)\b", re.IGNORECASE)
BANNED_OPENERS = frozenset({"who", "what", "where", "which", "how", "whether", "whoever"})
PRONOUNS = re.compile(r"\b(it|that|who|what|which|one|whoever|nobody|nothing)\b", re.IGNORECASE)
SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
DIRECTIVES = ("#!", "# noqa", "# type", "# fmt", "# ruff", "# pragma")
QUOTED_CODE = re.compile(r"`[^`]*`")
# Texts besides Python in which banned phrases are looked for.
PROSE = (
    "README.md",
    "docs/**/*.md",
    "charts/**/*.yaml",
    "charts/**/*.tpl",
    "charts/**/*.txt",
    "proto/**/*.proto",
    "services/web/src/**/*.ts*",
)

Function = ast.FunctionDef | ast.AsyncFunctionDef
Documented = Function | ast.ClassDef | ast.Module


@dataclass(frozen=True)
class Module:
    """One Python file, parsed when a figure needs the syntax tree."""

    path: Path
    text: str

    @property
    def name(self) -> str:
        return (
            str(self.path.relative_to(ROOT)) if self.path.is_relative_to(ROOT) else self.path.name
        )

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @cached_property
    def lines(self) -> list[str]:
        return self.text.splitlines()

    @cached_property
    def functions(self) -> list[Function]:
        return [node for node in ast.walk(self.tree) if isinstance(node, Function)]

    @cached_property
    def docstrings(self) -> list[tuple[int, str]]:
        """Line number and text of each docstring."""
        nodes = [node for node in ast.walk(self.tree) if isinstance(node, Documented)]
        found = [(node, ast.get_docstring(node)) for node in nodes]
        return [(node.body[0].lineno, text) for node, text in found if text]

    @cached_property
    def comments(self) -> list[tuple[int, str]]:
        """Line number and text of each comment; directives of tools are left out."""
        tokens = tokenize.generate_tokens(io.StringIO(self.text).readline)
        return [
            (token.start[0], token.string.lstrip("# "))
            for token in tokens
            if token.type == tokenize.COMMENT and not token.string.startswith(DIRECTIVES)
        ]

    def called_once(self) -> list[Function]:
        """Private functions with one call in this module and no other mention.

        A function that is passed as a value, such as a callback, has no call and could not be
        replaced by its body.
        """
        mentions = Counter(
            found for node in ast.walk(self.tree) if (found := _mentioned(node)) is not None
        )
        calls = Counter(
            _mentioned(node.func) for node in ast.walk(self.tree) if isinstance(node, ast.Call)
        )
        private = [
            function
            for function in self.functions
            if function.name.startswith("_") and not function.name.startswith("__")
        ]
        return [
            function
            for function in private
            if mentions[function.name] == 1 and calls[function.name] == 1
        ]


def _mentioned(node: ast.AST) -> str | None:
    """Return the name in a mention of a variable or an attribute."""
    if isinstance(node, ast.Name):
        return node.id
    return node.attr if isinstance(node, ast.Attribute) else None


@dataclass
class Figures:
    """Size and language of a set of modules; shares are from 0 to 1."""

    modules: Sequence[Module]
    lengths: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.lengths = sorted(
            (function.end_lineno or 0) - function.lineno + 1
            for module in self.modules
            for function in module.functions
        )

    @property
    def lines(self) -> int:
        return sum(len(module.lines) for module in self.modules)

    @property
    def short_modules(self) -> float:
        """Share of modules under 40 lines; `__init__` and `__main__` are exempt."""
        short = [
            module
            for module in self.modules
            if len(module.lines) < SHORT_MODULE_LINES
            and module.path.name not in ("__init__.py", "__main__.py")
        ]
        return len(short) / max(1, len(self.modules))

    @property
    def called_once(self) -> float:
        """Share of all functions that are private and have a single call."""
        found = sum(len(module.called_once()) for module in self.modules)
        return found / max(1, len(self.lengths))

    @property
    def pronoun_sentences(self) -> float:
        """Share of sentences in docstrings and comments that contain one of `PRONOUNS`."""
        texts = [
            text for module in self.modules for _, text in (*module.docstrings, *module.comments)
        ]
        sentences = [part for text in texts for part in SENTENCE_END.split(text)]
        sentences = [part for part in sentences if len(part.split()) > 2]
        return sum(bool(PRONOUNS.search(part)) for part in sentences) / max(1, len(sentences))

    def report(self) -> str:
        comments = sum(len(module.comments) for module in self.modules)
        return (
            f"{len(self.modules)} modules ({self.short_modules:.0%} under {SHORT_MODULE_LINES} "
            f"lines), {self.lines} lines; {len(self.lengths)} functions "
            f"({100 * len(self.lengths) / self.lines:.1f} per 100 lines, median "
            f"{statistics.median(self.lengths):.0f}, "
            f"p90 {self.lengths[int(0.9 * len(self.lengths))]}, "
            f"{self.called_once:.0%} private with a single call); "
            f"{100 * comments / self.lines:.1f} "
            f"comments per 100 lines; {self.pronoun_sentences:.0%} pronoun sentences"
        )


# Enforced for the product as a whole.
MAX_SHORT_MODULES = 0.08
# The goal is 0.10; most that remain are callbacks, tasks and steps of a long function.
MAX_CALLED_ONCE = 0.10


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m infra.check.readability", description=__doc__)
    parser.add_argument("--figures", action="store_true", help="print figures, check nothing")
    if parser.parse_args(words).figures:
        for folder in PRODUCT:
            print(f"{folder}: {Figures(read(folder)).report()}")
        print(f"all: {Figures(read(*PRODUCT)).report()}")
        return 0
    found = [*violations(), *long_subjects()]
    for line in found:
        print(line)
    return 1 if found else 0


def violations() -> Iterator[str]:
    """Each broken rule of the tree as `path:line: rule`."""
    modules = read(*CODE)
    for module in modules:
        yield from language(module)
    for pattern in PROSE:
        for path in sorted(ROOT.glob(pattern)):
            if "node_modules" not in path.parts:
                yield from banned_phrases(str(path.relative_to(ROOT)), path.read_text())
    product = [module for module in modules if module.name.startswith(PRODUCT)]
    yield from crowded_folders(product)
    yield from uncommented(product)
    figures = Figures(product)
    if figures.short_modules > MAX_SHORT_MODULES:
        yield f"{figures.short_modules:.1%} of modules are under {SHORT_MODULE_LINES} lines"
    if figures.called_once > MAX_CALLED_ONCE:
        yield f"{figures.called_once:.1%} of functions are private with a single call"


def read(*folders: str) -> list[Module]:
    """All Python modules of `folders` except the page's packages."""
    paths = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    return [Module(path, path.read_text()) for path in paths if "node_modules" not in path.parts]


def language(module: Module) -> Iterator[str]:
    """Violations in the docstrings and comments of one module."""
    for number, text in module.docstrings:
        words = text.split()
        if len(words) < MIN_DOCSTRING_WORDS:
            yield f"{module.name}:{number}: docstring of {len(words)} words; at least 4 are needed"
        if words[0].strip(".,:").lower() in BANNED_OPENERS:
            yield f"{module.name}:{number}: docstring starts with {words[0]!r}"
    for number, text in (*module.docstrings, *module.comments):
        yield from banned_phrases(module.name, text, number)


def banned_phrases(name: str, text: str, first_line: int = 1) -> Iterator[str]:
    """Banned phrases in a text that starts at `first_line` of the file `name`."""
    for number, line in enumerate(text.splitlines(), start=first_line):
        for phrase in BANNED.findall(QUOTED_CODE.sub("", line)):
            yield f"{name}:{number}: banned phrase {phrase!r}"


def crowded_folders(modules: Sequence[Module]) -> Iterator[str]:
    counts = Counter(module.path.parent for module in modules if module.path.stem != "__init__")
    for folder, count in sorted(counts.items()):
        if count > MAX_MODULES_IN_FOLDER:
            name = folder.relative_to(ROOT)
            yield f"{name}: {count} modules; the limit is {MAX_MODULES_IN_FOLDER}"


def uncommented(modules: Sequence[Module]) -> Iterator[str]:
    """Hard modules with too few comments, and names in `HARD_MODULES` that do not exist."""
    known = {module.name: module for module in modules}
    for name in HARD_MODULES:
        if name not in known:
            yield f"{name}: listed in HARD_MODULES and does not exist"
            continue
        per_100 = 100 * len(known[name].comments) / len(known[name].lines)
        if per_100 < MIN_COMMENTS_PER_100_LINES:
            yield (
                f"{name}: {per_100:.1f} comments per 100 lines; "
                f"a hard module needs {MIN_COMMENTS_PER_100_LINES:.0f}"
            )


def long_subjects() -> Iterator[str]:
    """Commit subjects over 72 characters since the rule exists."""
    command = ("git", "log", f"--since={SUBJECTS_SINCE}", "--no-merges", "--format=%h %s")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        # An archive of the tree has no history, and its other rules are checked all the same.
        print(f"warning: commit subjects are not checked: {done.stderr.strip()}")
    for line in done.stdout.splitlines():
        commit, subject = line.split(" ", 1)
        if len(subject) > MAX_SUBJECT:
            size = len(subject)
            yield f"commit {commit}: subject of {size} characters; the limit is {MAX_SUBJECT}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
