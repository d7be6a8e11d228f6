"""Commands for contributors, in a clean clone as an ordinary user."""

import json

import pytest

from tests.support.newcomer import Newcomer

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]


@pytest.mark.executes("make check", "make page", "make lock")
def test_generated_files_are_those_of_the_repository(newcomer: Newcomer) -> None:
    newcomer.run("make check", seconds=1200)
    newcomer.run("make page", seconds=600)
    assert newcomer.run("git status --short") == ""
    # The locks of separate environments take new versions of packages that no other lock has.
    newcomer.run("make lock", seconds=900)
    changed = {line.split()[-1] for line in newcomer.run("git status --short").splitlines()}
    assert changed <= {f"locks/{name}.txt" for name in ("arena_rank", "vllm", "vllm_gpu")}


@pytest.mark.executes("make oracle", "make mutants", "make long-tests-current")
def test_aliases_run_their_slices(newcomer: Newcomer) -> None:
    newcomer.run("make oracle", seconds=900)
    newcomer.run("make mutants", seconds=1500)
    record = (newcomer.clone / "docs" / "long-tests.jsonl").read_text().splitlines()
    results = [json.loads(line) for line in record[-2:]]
    assert [(one["slice"], one["result"], one["clean"]) for one in results] == [
        ("oracle", "passed", True),
        ("mutants", "passed", True),
    ]
    # Other slices may be outdated: make then ends with status 2.
    outdated = newcomer.run("make long-tests-current", seconds=120, statuses=(0, 2))
    assert "SLICE=mutants" not in outdated and "SLICE=oracle" not in outdated
