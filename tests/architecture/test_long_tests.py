"""Slices of `make test-long`: coverage of all long tests and the format of their record."""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from tests import long_tests
from tests.long_tests import SLICES, Result, Slice

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


def test_fault_matrix_is_divided_into_disjoint_slices() -> None:
    feedback, outages = paths_of("faults-feedback"), paths_of("faults-outages")
    ignored = [
        word.removeprefix("--ignore=")
        for word in SLICES["faults-chat"].pytest
        if word.startswith("--ignore=")
    ]
    assert [*feedback, *outages] == ignored
    assert not {*feedback} & {*outages}
    assert 0 < len(feedback) < len(list((long_tests.ROOT / "tests" / "faults").glob("test_*.py")))


def test_counts_are_read_from_the_report(tmp_path: Path) -> None:
    (tmp_path / "report.xml").write_text(REPORT)
    assert long_tests.counts(tmp_path / "report.xml") == (3, 2, 2)


def test_unknown_slice_is_rejected() -> None:
    with pytest.raises(SystemExit) as caught:
        long_tests.main(["mutants", "nonsense"])
    assert caught.value.code == 2


def test_covered_paths_exist_and_include_the_tests_of_the_slice() -> None:
    for name, chosen in SLICES.items():
        covered = [path for path in chosen.covers if not path.startswith(":")]
        assert [path for path in covered if not (long_tests.ROOT / path).exists()] == [], name
        assert [
            path
            for path in paths_of(name)
            if not any(path == one or path.startswith(f"{one}/") for one in covered)
        ] == [], name


def test_slice_sets_its_cores_variables_and_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[tuple[list[str], int, dict[str, str]]] = []

    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        steps.append((command, len(os.sched_getaffinity(0)), options.get("env", {})))
        return subprocess.CompletedProcess(command, 0, "")

    one = Slice("", covers=(), program=("x",), environment={"MKL_CBWR": "AVX2"}, cores=1)
    other = Slice("", covers=(), program=("x",), python="python9")
    monkeypatch.setattr(long_tests, "SLICES", {"one": one, "other": other})
    monkeypatch.setattr(long_tests, "RECORD", tmp_path / "record.jsonl")
    monkeypatch.setattr(subprocess, "run", run)
    before = len(os.sched_getaffinity(0))
    assert long_tests.main(["one", "other"]) == 0
    alone, apart = (step for step in steps if step[0][-1] == "x")
    assert (alone[1], alone[2]["MKL_CBWR"], alone[0][0]) == (1, "AVX2", sys.executable)
    assert apart[1] == before
    clone = Path(apart[0][0]).parents[2]
    assert [step[0][:2] for step in steps if step[0][0] == "python9"] == [
        ["python9", "infra/install/environment.py"]
    ]
    assert clone != Path(sys.executable).parents[2]


@pytest.mark.parametrize(
    ("changed", "record", "age"),
    [
        ([], {}, 0),
        (["training/losses/a.py"], {}, 1),
        (["services/a.py", "training/losses/page.md"], {}, 0),
        (["locks/dev.txt"], {}, 1),
        ([], {"result": "failed"}, None),
        ([], {"clean": False}, None),
        ([], {"commit": "0" * 40}, None),
    ],
)
def test_age_counts_commits_to_the_paths_of_a_slice(
    changed: list[str],
    record: dict[str, object],
    age: int | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
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
    for name in changed:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
        git("add", name)
        git("commit", "-q", "-m", name)
    line = Result(first, True, "2026-11-28 00:00", "oracle", "passed", 1, 0, 0, 60)
    path = tmp_path / "record.jsonl"
    path.write_text(json.dumps({**asdict(line), **record}) + "\n")
    monkeypatch.setattr(long_tests, "ROOT", tmp_path)
    monkeypatch.setattr(long_tests, "RECORD", path)
    monkeypatch.setattr(long_tests, "SLICES", {"oracle": SLICES["oracle"]})
    assert bool(long_tests.outdated_slices(0)) is (age != 0)
    assert bool(long_tests.outdated_slices(1)) is (age is None)
    assert long_tests.main(["--current"]) == (age != 0)
    assert long_tests.main(["--check"]) == 0
