"""The whole data path in its own process: killed at random points, and on several workers."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.training.data_path.corpora import content, page, write_table

ROOT = Path(__file__).resolve().parents[3]
SETTINGS = """
decontaminate = false
[[sources]]
name = "web"
folder = "in"
[quality]
groups = ["c4"]
[shards]
vocabulary = 600
"""
FILES, PAGES = 6, 120
START_SECONDS = 1.0  # of the interpreter; earlier kills would test nothing


@pytest.fixture
def config(tmp_path: Path) -> Path:
    for file in range(FILES):
        rows = [page(number % 500) for number in range(file * PAGES, (file + 1) * PAGES)]
        write_table(tmp_path / "in" / f"{file}.jsonl", rows)
    path = tmp_path / "corpus.toml"
    path.write_text(SETTINGS)
    return path


def start(config: Path, out: Path, workers: int = 1) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "training.corpus", "build", config, "--out", out]
    return subprocess.Popen(
        [*map(str, command), "--workers", str(workers)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )


def finish(process: Any) -> float:
    began = time.monotonic()
    _, errors = process.communicate()
    assert process.returncode == 0, errors.decode()
    return time.monotonic() - began


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_killed_builds_give_the_same_bytes(config: Path, tmp_path: Path) -> None:
    """100 kills, spread over several builds; each build ends with a run to its end."""
    seconds = finish(start(config, tmp_path / "whole"))
    choose, kills, builds = random.Random(1), 0, 0
    while kills < 100:
        out = tmp_path / f"build-{builds}"
        for _ in range(10):
            process = start(config, out)
            time.sleep(choose.uniform(START_SECONDS, seconds))
            if process.poll() is None:
                kills += 1
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        finish(start(config, out))
        builds += 1
        assert content(out) == content(tmp_path / "whole")


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_workers_of_ray_give_the_same_bytes(config: Path, tmp_path: Path) -> None:
    finish(start(config, tmp_path / "alone"))
    finish(start(config, tmp_path / "ray", workers=2))

    assert content(tmp_path / "ray") == content(tmp_path / "alone")
