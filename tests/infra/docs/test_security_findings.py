"""Table of docs/security-findings.md: every finding names tests that exist."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
TABLE = ROOT / "docs" / "security-findings.md"
COLUMNS = ["finding", "what was possible", "fix", "test"]
NAME = re.compile(r"`([^`]+)`")


def rows() -> dict[str, list[str]]:
    """Return the cells of the table by finding, without the head."""
    lines = [line for line in TABLE.read_text().splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    assert [cell.strip() for cell in lines[0].strip("|").split("|")] == COLUMNS
    return {row[0]: row for row in cells[2:]}


def test_names_of_findings_are_unique_and_rows_complete() -> None:
    lines = [line for line in TABLE.read_text().splitlines() if line.startswith("|")]
    assert len(rows()) == len(lines) - 2 > 0
    assert {name: len(row) for name, row in rows().items() if len(row) != len(COLUMNS)} == {}


@pytest.mark.parametrize("finding", rows())
def test_every_test_of_a_finding_exists(finding: str) -> None:
    names = NAME.findall(rows()[finding][-1])
    assert names, "a finding without a test"
    assert [name for name in names if not exists(name)] == []


def exists(name: str) -> bool:
    """Return True for an existing file, or an existing function of a Python file."""
    path, _, function = name.partition("::")
    file = ROOT / path
    if not file.is_file() or not function:
        return file.is_file()
    defined = [
        node.name
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    return function.partition("[")[0] in defined
