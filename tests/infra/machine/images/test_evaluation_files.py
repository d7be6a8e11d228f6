"""The files of the training image suffice for an evaluation with benchmarks."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from infra.machine.images.build import SITE
from infra.machine.images.catalogue import ROOT, read_catalogue
from training.artifacts.scores import ScoreStore


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_files_of_the_training_image_evaluate_a_model(tmp_path: Path) -> None:
    app, home, state = tmp_path / "app", tmp_path / "home", tmp_path / "state"
    home.mkdir()
    for path in read_catalogue().images["training"].paths:
        (app / path).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / path).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / path, app / path, ignore=ignored)
        else:
            shutil.copyfile(ROOT / path, app / path)
    # The base interpreter knows nothing of the clone, and finds the packages as in the image.
    packages = app / Path(SITE).name
    packages.symlink_to(sysconfig.get_path("purelib"))
    search = os.pathsep.join(map(str, (packages, app, app / "gen")))
    cache = os.environ.get("THUMBWHEEL_CACHE", str(Path.home() / ".cache" / "thumbwheel"))
    environment = {"HOME": str(home), "PATH": "/usr/bin:/bin", "PYTHONPATH": search}
    done = subprocess.run(
        [
            f"{sys.base_prefix}/bin/python3",
            *("-m", "training", "evaluate", "models/nano", "--tasks", "piqa,lambada"),
            *("--limit", "20", "--state", str(state)),
        ],
        cwd=app,
        env=environment | {"THUMBWHEEL_CACHE": cache, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = ScoreStore(state / "loop").scores("nano-0")
    assert {task: score.items for task, score in found.items()} == {"piqa": 20, "lambada": 20}
