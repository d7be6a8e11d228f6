"""Commands that need no installation, in a clean clone as an ordinary user."""

import pytest

from tests.commands.pages import targets
from tests.support.newcomer import Newcomer


@pytest.mark.executes("make help")
def test_help_lists_all_targets(newcomer: Newcomer) -> None:
    text = newcomer.run("make help")
    assert newcomer.run("make") == text
    assert {line.split()[1] for line in text.splitlines()} == set(targets())
    assert all(len(line.split()) > 2 for line in text.splitlines())


@pytest.mark.executes("make clean", "make clean ALL=1")
def test_clean_removes_the_environment_and_all_only_of_this_clone(newcomer: Newcomer) -> None:
    newcomer.run("mkdir -p .venv/bin dist .state/logs .state-other")
    newcomer.run("make clean")
    left = {path.name for path in newcomer.clone.iterdir()}
    assert left.isdisjoint({".venv", "dist"})
    assert left >= {".state", ".state-other", "models"}
    newcomer.run("make clean ALL=1")
    left = {path.name for path in newcomer.clone.iterdir()}
    assert left.isdisjoint({".state", ".state-other"})
    assert newcomer.run("git status --short") == ""
