"""Missing requirements are named and their tests skipped; in CI they are an error."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from infra.install import requirements
from infra.install.requirements import REQUIREMENTS, Requirement
from infra.machine.servers import installation as servers
from infra.machine.servers.errors import ServerError
from infra.machine.servers.installation import Part

CONFTEST = Path(__file__).parents[2] / "conftest.py"
TESTS = """
def test_alone(): ...

def test_with_a_database(postgres): ...
"""


def requirement(problem: str = "") -> Requirement:
    """Requirement that is never installed; `problem` is the error of its installation."""

    def install(_say: requirements.Say) -> None:
        if problem:
            raise ServerError(problem)

    return Requirement(
        "Thing", lambda: False, install, "of things", frozenset({"thing"}), ("tests/things/",)
    )


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("THUMBWHEEL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.usefixtures("empty_cache")
def test_empty_cache_has_all_requirements_missing() -> None:
    assert requirements.missing() == list(REQUIREMENTS)


@pytest.mark.usefixtures("empty_cache")
def test_every_part_of_the_real_servers_is_a_requirement(monkeypatch: pytest.MonkeyPatch) -> None:
    installed: list[Part] = []
    monkeypatch.setattr(servers, "install_missing", lambda parts, _say: installed.extend(parts))
    for one in REQUIREMENTS:
        if one.name not in ("Chromium", "Helm and kubectl", "wandb and MLflow"):
            one.install(print)
    homes = {part.home for part in installed}
    assert {
        part.what for part in servers.parts(servers.locate()) if part.home not in homes
    } == set()


@pytest.mark.parametrize(
    ("path", "fixtures", "needed"),
    [
        ("tests/things/test_one.py", set(), True),
        ("tests/other/test_one.py", {"thing"}, True),
        ("tests/other/test_one.py", {"other"}, False),
    ],
)
def test_requirement_applies_by_path_or_fixture(
    path: str, fixtures: set[str], needed: bool
) -> None:
    assert requirement().is_needed_by(path, fixtures) is needed


def test_failed_requirement_is_named_and_others_are_installed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr(requirements, "REQUIREMENTS", (requirement("no network"), requirement()))
    requirements.main()
    (line,) = capsys.readouterr().out.splitlines()
    assert all(words in line for words in ("Thing", "of things", "no network"))


def test_missing_requirement_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    monkeypatch.setattr(requirements, "REQUIREMENTS", (requirement("no network"),))
    with pytest.raises(SystemExit) as caught:
        requirements.main()
    assert "Thing" in str(caught.value)


@pytest.mark.parametrize(("ci", "outcome"), [("", "1 skipped"), ("true", "1 error")])
def test_tests_of_missing_requirement_are_skipped_outside_ci(
    ci: str, outcome: str, empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(CONFTEST, tmp_path)
    (tmp_path / "test_some.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = slow\n")
    monkeypatch.setenv("CI", ci)
    command = [sys.executable, "-m", "pytest", "--rootdir", str(tmp_path), str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert all(words in done.stdout.splitlines()[-1] for words in ("1 passed", outcome))
    assert "missing: PostgreSQL" in done.stdout
    assert not empty_cache.exists() or not any(empty_cache.glob("servers/packages-*"))
