"""Imports of Python files, for the rules of imports and for the content of images."""

import ast
import functools
from pathlib import Path


@functools.cache
def parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


@functools.cache
def imported(file: Path, run_time: bool = False, in_functions: bool = True) -> list[str]:
    """Return the imported modules and names.

    Args:
        run_time: without those in `if TYPE_CHECKING:`.
        in_functions: also those that functions import when they are called.
    """
    found = []
    pending: list[ast.AST] = [parse(file)]
    while pending:
        node = pending.pop()
        if run_time and isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if not in_functions and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        pending += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found
