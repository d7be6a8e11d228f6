"""Commands that users type: targets of the Makefile, and commands of README.md and docs/demo.md."""

from functools import cache

from infra.install.environment import ROOT
from tests.support.pages import blocks_of, inline_code

PAGES = ("README.md", "docs/demo.md")
PROGRAMS = ("make ", "pip ", "helm ", "apt-get ", "python3 ", ".venv/bin/")


@cache
def targets() -> tuple[str, ...]:
    """Return the targets of the Makefile."""
    (line,) = (
        line for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith(".PHONY:")
    )
    return tuple(line.split()[1:])


@cache
def commands() -> tuple[str, ...]:
    """Return the commands of the pages; `RECIPE=nano|small` yields two."""
    unique: dict[str, None] = {}
    for page in PAGES:
        text = (ROOT / page).read_text()
        typed = [command for block in blocks_of(text) for command in block.commands]
        for command in (*typed, *inline_code(text)):
            if command.startswith(PROGRAMS):
                start, *choices = command.split("|")
                first = start.rsplit("=", 1)[0]
                unique.update(dict.fromkeys((start, *(f"{first}={one}" for one in choices))))
    return tuple(unique)


@cache
def snippet() -> str:
    """Return the Python code of README.md."""
    (block,) = blocks_of((ROOT / "README.md").read_text(), language="python")
    return block.text
