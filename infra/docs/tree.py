"""Writes docs/tree.md: every file with the first sentence of its docstring. `--check` compares and writes nothing."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from infra.docs.written import write_or_compare

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "tree.md"
ROOMS = ("services", "training", "infra", "benchmarks", "proto")
SOURCES = {".py", ".ts", ".tsx", ".proto", ".sh", ".mjs", ".go"}
SKIPPED = {"node_modules", "dist", "tests", "__pycache__"}
HEAD = "# The tree\n\nOne line a file, from its own first words. Written by `python -m infra.docs.tree`; `make check` compares.\n"


def main() -> None:
    text = HEAD + "".join(f"\n## {room}\n\n```\n{chr(10).join(lines_of(ROOT / room))}\n```\n" for room in ROOMS)
    write_or_compare(PAGE, text, "docs/tree.md is not what the files say: run python -m infra.docs.tree")


def lines_of(folder: Path, depth: int = 0) -> Iterator[str]:
    """Files first, then folders, indented."""
    entries = sorted(folder.iterdir(), key=lambda entry: (entry.is_dir(), entry.name))
    for entry in entries:
        if entry.name in SKIPPED:
            continue
        if entry.is_dir() and (inner := list(lines_of(entry, depth + 1))):
            yield f"{'  ' * depth}{entry.name + '/':<{34 - 2 * depth}} {first_sentence(entry / '__init__.py')}".rstrip()
            yield from inner
        elif entry.suffix in SOURCES and entry.name != "__init__.py":
            yield f"{'  ' * depth}{entry.name:<{34 - 2 * depth}} {first_sentence(entry)}".rstrip()


def first_sentence(file: Path) -> str:
    """Of a module's docstring, or of the comment at the head of another source."""
    if not file.exists():
        return ""
    text = file.read_text()
    words = ast.get_docstring(ast.parse(text)) if file.suffix == ".py" else _head_comment(text)
    return re.split(r"(?<=[.?!])\s", " ".join((words or "").split()))[0]


def _head_comment(text: str) -> str:
    lines = [line for line in text.splitlines() if not line.startswith("#!")]
    comments = [line.lstrip("/# ") for line in lines[: next((i for i, x in enumerate(lines) if x[:1] not in "/#"), 0)]]
    return " ".join(comments)


if __name__ == "__main__":
    main()
