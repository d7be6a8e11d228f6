"""Every regular expression of the services takes time linear in the length of a text.

Patterns are collected from the modules, and texts are derived from the patterns: many repetitions
of each repeated part, after the text that leads to it, and with an end that no pattern expects. The
texts grow until a search takes measurable time; then LENGTHS times the length may take at most
MAX_GROWTH times as long: a linear pattern takes 4 times, a quadratic one 16 times. Processor time
of the thread and the minimum of several searches are compared, so that other processes do not
matter.
"""

import ast
import gc
import importlib
import re
import re._constants as sre
import re._parser as parser
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
LENGTHS, MAX_GROWTH = 4, 8.0
# A linear pattern takes less for LONGEST characters, or grows as expected. A quadratic one has 2
# million steps.
FLOOR_SECONDS = 0.001
LONGEST = 2_048
SIZES = (16, 24, 32, 48, 64, 96, 128, 192, 256, 512, 1_024, LONGEST)
REPEATS = 5
ROUNDS = 3  # of both lengths, while they differ too much: other processes disturb caches
# No pattern expects this character.
END = "\x00"
# Repeated characters that every pattern is tried with.
CHARACTERS = "aA1 \n.-_*\"'([{<\\/:=@#&!"
# Methods that start at one position only; others try every position of a text.
ANCHORED = ("match", "fullmatch")
METHODS = (*ANCHORED, "search", "sub", "finditer", "findall", "split")
UNBOUNDED = 20
# Modules that build patterns of the metadata of phonenumbers, for at most 24 digits. Their other
# patterns are tried like all.
SHORT_TEXTS = ("services/guardrail/detection/phones.py",)
# Modules of regular expressions.
ENGINES = ("re", "regex")


def patterns() -> dict[str, tuple[re.Pattern[str], str]]:
    """Return all compiled patterns of the services by place, with the method to try."""
    found = {}
    for file in sorted((ROOT / "services").rglob("*.py")):
        source = file.read_text()
        place = str(file.relative_to(ROOT))
        # No main module has patterns (test_no_pattern_of_a_service_is_missed).
        if not _mentions(ast.parse(source)) or file.name == "__main__.py":
            continue
        module = importlib.import_module(place.removesuffix(".py").replace("/", "."))
        for name, value in vars(module).items():
            for number, pattern in enumerate(_patterns_in(value)):
                found[f"{place} {name} {number}"] = pattern, _method(source, name)
        for node in ast.walk(ast.parse(source)):
            if _is_inline(node):
                found[f"{place}:{node.lineno}"] = (
                    re.compile(node.args[0].value),
                    node.func.attr if node.func.attr in ANCHORED else "search",
                )
    return found


def _patterns_in(value: Any) -> Iterator[re.Pattern[str]]:
    if isinstance(value, re.Pattern):
        # A pattern of bytes takes as long as that of the same ASCII characters.
        is_bytes = isinstance(value.pattern, bytes)
        yield (
            re.compile(value.pattern.decode("ascii"), value.flags | re.ASCII) if is_bytes else value
        )
    elif isinstance(value, (tuple, list, set, frozenset)):
        for entry in value:
            yield from _patterns_in(entry)
    elif isinstance(value, dict):
        yield from _patterns_in(list(value.values()))


def _is_inline(node: ast.AST) -> bool:
    """Return True for `re.sub("…", …)` and the like within a function."""
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "re"
        and node.func.attr in METHODS
        and bool(node.args)
        and isinstance(node.args[0], ast.Constant)
        and isinstance(node.args[0].value, str)
    )


def _mentions(tree: ast.AST) -> list[ast.Attribute]:
    """Return the functions of `re` with a pattern as argument in a syntax tree."""
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "re"
        and node.attr in (*METHODS, "subn", "compile")
    ]


def missed(source: str, module: Mapping[str, Any]) -> list[int]:
    """Return the lines of a module with patterns that `patterns` does not collect.

    Collected are inline patterns, and those that a module assigns to names, alone or in
    collections: no f-string in a function, no pattern that a function, class or object keeps.

    Args:
        source: text of the module.
        module: names of the module with their values.
    """
    tree = ast.parse(source)
    collected = {node.func for node in ast.walk(tree) if _is_inline(node)}
    for statement in tree.body:
        if not isinstance(statement, (ast.Assign, ast.AnnAssign)):
            continue
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        values = [module.get(target.id) for target in targets if isinstance(target, ast.Name)]
        mentions = _mentions(statement)
        if sum(len(list(_patterns_in(value))) for value in values) >= len(mentions):
            collected |= set(mentions)
    lines = [node.lineno for node in _mentions(tree) if node not in collected]
    for node in ast.walk(tree):
        # Under other names the functions are not recognised.
        if isinstance(node, ast.ImportFrom):
            found = node.module in ENGINES
        elif isinstance(node, ast.Import):
            found = any(
                each.name in ENGINES and (each.asname or each.name) != "re" for each in node.names
            )
        else:
            continue
        lines += [node.lineno] * found
    return sorted(lines)


def _method(source: str, name: str) -> str:
    """Return the only method that the module calls on a pattern, or search if unsure."""
    called = set(re.findall(rf"\b{name}\.([a-z]+)\(", source))
    mentions = len(re.findall(rf"\b{name}\b", source))
    calls = len(re.findall(rf"\b{name}\.[a-z]+\(", source))
    # All mentions but the definition are calls of anchored methods.
    is_anchored = called and called <= set(ANCHORED) and mentions == calls + 1
    return (
        "match" if is_anchored and "match" in called else "fullmatch" if is_anchored else "search"
    )


def texts(pattern: re.Pattern[str]) -> Iterator[tuple[str, str]]:
    """Yield prefix and repeated part of texts that may take long."""
    parts = {("", character) for character in CHARACTERS}
    tree = parser.parse(pattern.pattern, pattern.flags)
    for choice in range(3):
        for before, body in _repeated(tree, "", choice):
            parts |= {(before, body), ("", body), ("", before + body)}
    yield from sorted(part for part in parts if part[1])


def _repeated(tree: Iterable[Any], before: str, choice: int) -> Iterator[tuple[str, str]]:
    """Yield, for each repetition, a text that leads to it, and a text that it repeats."""
    for operation, value in tree:
        for inner in _inner(operation, value):
            yield from _repeated(inner, before, choice)
        if operation in REPEATING and value[1] >= UNBOUNDED:
            yield before, _example(value[2], choice)
        before += _example([(operation, value)], choice)


REPEATING = (sre.MAX_REPEAT, sre.MIN_REPEAT, sre.POSSESSIVE_REPEAT)


def _inner(operation: Any, value: Any) -> list[Any]:
    if operation in REPEATING:
        return [value[2]]
    if operation is sre.BRANCH:
        return list(value[1])
    if operation is sre.SUBPATTERN:
        return [value[-1]]
    if operation in (sre.ASSERT, sre.ASSERT_NOT):
        return [value[1]]
    return [value] if operation is sre.ATOMIC_GROUP else []


def _example(tree: Iterable[Any], choice: int) -> str:
    """Return a text that the tree probably matches; `choice` selects among several."""
    text = ""
    for operation, value in tree:
        if operation is sre.LITERAL:
            text += chr(value)
        elif operation in (sre.NOT_LITERAL, sre.ANY, sre.IN):
            allowed = _characters(operation, value)
            text += allowed[choice % len(allowed)]
        elif operation in REPEATING:
            text += _example(value[2], choice) * max(1, value[0])
        elif operation in (sre.BRANCH, sre.SUBPATTERN, sre.ATOMIC_GROUP):
            inner = _inner(operation, value)
            text += _example(inner[choice % len(inner)], choice)
    return text


def _characters(operation: Any, value: Any) -> list[str]:
    items = list(value) if operation is sre.IN else [(operation, value)]
    negated = items[0][0] in (sre.NEGATE, sre.NOT_LITERAL) or operation is sre.ANY
    wide = CHARACTERS + "bcxyz23,;?~|$%^+}])>"
    own = [chr(low) for kind, low in _bounds(items)]
    found = [character for character in (*wide, *own) if _in(items, character) != negated]
    return found or ["a"]


def _bounds(items: list[Any]) -> Iterator[tuple[Any, int]]:
    for kind, argument in items:
        if kind in (sre.LITERAL, sre.NOT_LITERAL):
            yield kind, argument
        elif kind is sre.RANGE:
            yield kind, argument[0]


def _in(items: list[Any], character: str) -> bool:
    code = ord(character)
    tests = {
        sre.CATEGORY_DIGIT: str.isdigit,
        sre.CATEGORY_SPACE: str.isspace,
        sre.CATEGORY_WORD: lambda c: c.isalnum() or c == "_",
        sre.CATEGORY_NOT_DIGIT: lambda c: not c.isdigit(),
        sre.CATEGORY_NOT_SPACE: lambda c: not c.isspace(),
        sre.CATEGORY_NOT_WORD: lambda c: not (c.isalnum() or c == "_"),
    }
    for kind, argument in items:
        if (
            (kind in (sre.LITERAL, sre.NOT_LITERAL) and code == argument)
            or (kind is sre.RANGE and argument[0] <= code <= argument[1])
            or (kind is sre.CATEGORY and tests[argument](character))
        ):
            return True
    return False


def growth(pattern: re.Pattern[str], method: str) -> tuple[float, str]:
    """Return the largest growth of time with LENGTHS times the length, and the repeated part."""
    run = getattr(pattern, method)

    def seconds(before: str, body: str, size: int, repeats: int) -> float:
        text = before + body * (size // len(body) + 1) + END
        measured = []
        for _ in range(repeats):
            began = time.thread_time()
            run(text)
            measured.append(time.thread_time() - began)
        return min(measured)

    worst = 0.0, ""
    for before, body in texts(pattern):
        for size in SIZES:
            if (once := seconds(before, body, size, 1)) < FLOOR_SECONDS:
                continue
            # Single searches are often disturbed, and then measured again.
            if once < MAX_GROWTH * seconds(before, body, size // LENGTHS, 1) and size < LONGEST:
                continue
            factor = float("inf")
            for _ in range(ROUNDS):
                longer = seconds(before, body, size, REPEATS)
                if longer < FLOOR_SECONDS:  # the single search above was disturbed
                    factor = 0.0
                    break
                factor = min(factor, longer / seconds(before, body, size // LENGTHS, REPEATS))
                if factor <= MAX_GROWTH:
                    break
            worst = max(worst, (factor, before + body))
            if factor > MAX_GROWTH:
                break
    return worst


@pytest.fixture(autouse=True)
def no_garbage_collection() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


def test_every_pattern_takes_linear_time() -> None:
    grown = {
        place: (round(factor, 1), part)
        for place, (pattern, method) in patterns().items()
        for factor, part in [growth(pattern, method)]
        if factor > MAX_GROWTH
    }
    assert grown == {}


def test_no_pattern_of_a_service_is_missed() -> None:
    found = {}
    for file in sorted((ROOT / "services").rglob("*.py")):
        source, place = file.read_text(), str(file.relative_to(ROOT))
        module: Mapping[str, Any] = {}
        if _mentions(ast.parse(source)) and file.name != "__main__.py":
            name = place.removesuffix(".py").replace("/", ".")
            module = vars(importlib.import_module(name))
        found[place] = missed(source, module)
    assert {place for place, lines in found.items() if lines} == set(SHORT_TEXTS)


@pytest.mark.parametrize(
    "source",
    [
        "import re as regular",
        "from re import compile",
        "import regex",
        "import re\ndef f(x): return re.sub(f'{x}+', '', x)",
        "import re\ndef f(x): return re.compile('a+').sub('', x)",
        "import re\nclass A: B = re.compile('a+')",
        "import re\nA = [B('x', re.compile('a+'))]",
        "import re\ndef f(x): return re.sub(b'a+', b'', x)",
        "import re\nA = frozenset(map(re.compile, ()))",
    ],
)
def test_pattern_out_of_reach_is_reported(source: str) -> None:
    module: dict[str, Any] = {"B": lambda *parts: parts[:1]}
    exec(source.partition("import regex")[0], module)
    assert missed(source, module) == [source.count("\n") + 1]


@pytest.mark.parametrize(
    "source",
    [
        "import re\nA = re.compile('a+')",
        "import re\nA = {'x': (re.compile('a+'), re.compile('b+'))}",
        "import re\nA = re.compile(b'a+')",
        "import re\nA = tuple(map(re.compile, ('a+', 'b+')))",
        "import re\ndef f(x): return re.escape(re.sub('a+', '', x))",
    ],
)
def test_pattern_within_reach_is_not_reported(source: str) -> None:
    module: dict[str, Any] = {}
    exec(source, module)
    assert missed(source, module) == []


def test_patterns_of_all_services_are_found() -> None:
    found = patterns()
    assert len(found) > 120
    assert {place.split("/")[1] for place in found} >= {"guardrail", "enhancer", "gateway"}


@pytest.mark.parametrize(
    "pattern",
    [r"\s+$", r"[a-z]+@", r"(?:a+)+b", r"(?:\w+\s?)*$", r"=\s*\n\s*;", r"\(.*\)!"],
)
def test_pattern_that_is_not_linear_is_found(pattern: str) -> None:
    assert growth(re.compile(pattern), "search")[0] > MAX_GROWTH


@pytest.mark.parametrize("pattern", [r"\s", r"[a-z]{1,20}@", r"a[^b]{0,64}b", r"(?<!\s)\s++$"])
def test_linear_pattern_is_accepted(pattern: str) -> None:
    assert growth(re.compile(pattern), "search")[0] <= MAX_GROWTH
