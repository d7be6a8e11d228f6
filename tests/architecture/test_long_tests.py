"""Slices of `make test-long`: coverage of all long tests and the format of their record."""

import json
import subprocess
from dataclasses import asdict
from pathlib import Path

import pytest

from tests import long_tests
from tests.long_tests import SLICES, Result

REPORT = '<testsuites><testsuite tests="7" failures="1" errors="1" skipped="2"/></testsuites>'


def paths_of(name: str) -> list[str]:
    return [word for word in SLICES[name].pytest if word.startswith("tests/")]


def test_every_module_with_long_tests_is_in_a_slice() -> None:
    folders = {path for name in SLICES for path in paths_of(name)}
    found = [
        str(file.relative_to(long_tests.ROOT))
        for file in (long_tests.ROOT / "tests").rglob("test_*.py")
        if "mark.long" in file.read_text() and file != Path(__file__)
    ]
    assert found
    assert [file for file in found if not any(file.startswith(folder) for folder in folders)] == []


def test_fault_matrix_is_divided_into_two_disjoint_slices() -> None:
    feedback = paths_of("faults-feedback")
    ignored = [
        word.removeprefix("--ignore=")
        for word in SLICES["faults-chat"].pytest
        if word.startswith("--ignore=")
    ]
    assert feedback == ignored
    assert 0 < len(feedback) < len(list((long_tests.ROOT / "tests" / "faults").glob("test_*.py")))


def test_counts_are_read_from_the_report(tmp_path: Path) -> None:
    (tmp_path / "report.xml").write_text(REPORT)
    assert long_tests.counts(tmp_path / "report.xml") == (3, 2, 2)


def test_unknown_slice_is_rejected() -> None:
    with pytest.raises(SystemExit) as caught:
        long_tests.main(["mutants", "nonsense"])
    assert caught.value.code == 2


@pytest.mark.parametrize(
    ("commits", "result", "warned"),
    [(0, "passed", False), (60, "passed", False), (61, "passed", True), (0, "failed", True)],
)
def test_slice_without_pass_in_60_commits_causes_warning(
    commits: int, result: str, warned: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*words: str) -> str:
        identity = ("-c", "user.name=t", "-c", "user.email=t@example.test")
        done = subprocess.run(
            ["git", *identity, *words], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "first")
    first = git("rev-parse", "HEAD")
    for number in range(commits):
        git("commit", "-q", "--allow-empty", "-m", str(number))
    record = tmp_path / "record.jsonl"
    line = Result(first, True, "2026-11-28 00:00", "mutants", result, 1, 0, 0, 60)
    record.write_text(json.dumps(asdict(line)) + "\n")
    monkeypatch.setattr(long_tests, "ROOT", tmp_path)
    monkeypatch.setattr(long_tests, "RECORD", record)
    assert any("SLICE=mutants " in warning for warning in long_tests.warnings()) is warned
