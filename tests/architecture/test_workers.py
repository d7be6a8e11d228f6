"""Distribution of tests to workers: tests that share a server form a group."""

import shutil
import subprocess
import sys
from pathlib import Path

CONFTEST = Path(__file__).parents[1] / "conftest.py"
TESTS = """
import pytest

@pytest.fixture
def postgres(): ...

def test_alone(): ...

def test_shared(postgres): ...

@pytest.fixture(params=["sqlite", "postgres"])
def home(request): ...

def test_chosen(home): ...

@pytest.mark.parametrize("word", ["postgres"])
def test_word(word): ...
"""


def test_tests_that_share_a_server_stay_on_one_worker(tmp_path: Path) -> None:
    shutil.copy(CONFTEST, tmp_path)
    (tmp_path / "test_some.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = slow\n")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-v",
        "-n",
        "1",
        "--dist",
        "loadgroup",
        "--rootdir",
        str(tmp_path),
    ]
    done = subprocess.run(
        [*command, str(tmp_path)], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    # The scheduler reads the group from the suffix of the test id.
    for name in ("test_shared@databases", "test_chosen[postgres]@databases"):
        assert name in done.stdout
    for name in ("test_alone@", "test_chosen[sqlite]@", "test_word[postgres]@"):
        assert name not in done.stdout
