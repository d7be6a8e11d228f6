"""Command blocks of the runbooks, as printed on their pages."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from infra.install.environment import ROOT
from tests.support.pages import blocks_of

FOLDER = ROOT / "docs" / "runbooks"
HEADING = "\n## On Kubernetes\n"
LOOK, NAMES = "run: look", "run: names"
SLOW, REFUSED = "run in the long test: ", "not run: "
RESUME = f"{SLOW}resume"


@dataclass(frozen=True)
class Block:
    """A block of a page.

    Args:
        mark: text of the comment above it: how tests run the block, or why they do not.
    """

    page: str
    mark: str
    commands: str

    @property
    def is_quick(self) -> bool:
        """Return True if the block may run on a healthy release within seconds."""
        return self.mark.startswith("run: ")

    def __str__(self) -> str:
        """Return the name of the block in the report of a test."""
        return f"{self.page}: {self.mark}"


def pages() -> list[Path]:
    """Return the pages of all alerts."""
    return sorted(page for page in FOLDER.glob("*.md") if page.stem != "README")


def page_blocks(page: Path) -> Iterator[Block]:
    """Yield the blocks in the section for Kubernetes, in their order."""
    section = page.read_text().partition(HEADING)[2].partition("\n## ")[0]
    for block in blocks_of(section):
        yield Block(page.stem, block.mark, block.text)


@cache
def all_blocks() -> tuple[Block, ...]:
    """Return the blocks of all pages."""
    return tuple(block for page in pages() for block in page_blocks(page))


def block_of(alert: str, mark: str) -> Block:
    """Return the block with this mark on the page of an alert."""
    found = [block for block in all_blocks() if (block.page, block.mark) == (alert, mark)]
    assert len(found) == 1, f"{alert} has {len(found)} blocks with the mark {mark!r}"
    return found[0]


def look(alert: str) -> Block:
    """Return the block of an alert that only reads."""
    return block_of(alert, LOOK)


def names() -> str:
    """Return the block that sets the variables of all other blocks."""
    blocks = blocks_of((FOLDER / "README.md").read_text())
    (commands,) = (block.text for block in blocks if block.mark == NAMES)
    return commands
