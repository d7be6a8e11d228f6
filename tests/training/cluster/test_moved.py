"""Checkpoints in a bucket under Ray with a real store: shards, kills, and then fewer workers."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import servers
from tests.training.cluster import moved_run
from tests.training.cluster.compared_runs import POLITE_TO_NOBODY, assert_alike
from tests.training.cluster.killed_run import learn, write_inputs
from tests.training.cluster.moved_run import (
    DRIVER_DIES,
    PREFIX,
    STEPS,
    WORKER_DIES,
    moved,
    sharded,
    stage,
)
from tests.training.cluster.runs import Told
from tests.training.toys import sft_rows, write_lines
from training.artifacts.manifest import MANIFEST, verify_manifest
from training.cluster.bucket_checkpoints import CheckpointBucket
from training.cluster.group import Group
from training.cluster.runner import StageRun, run_stage, run_stages
from training.data.feedback.bucket import BucketLocation
from training.progress_log import PROGRESS, read_lines
from training.stages import sft


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_bucket_checkpoints_survive_kills_and_resume_in_one_process(
    s3: servers.S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_inputs(tmp_path)
    write_lines(tmp_path / "sft.jsonl", sft_rows(32))
    runs, there = tmp_path / "runs", s3.bucket()
    place = BucketLocation(
        there.endpoint, there.access_key, there.secret_key, there.name, secure=False
    )
    for name, value in {**told_of(place), **POLITE_TO_NOBODY}.items():
        monkeypatch.setenv(name, value)
    command = [sys.executable, "-m", moved_run.__name__, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == -signal.SIGKILL, done.stdout[-3000:] + done.stderr[-3000:]
    run_stages([stage(tmp_path)], runs, Group(), Told(), PREFIX)
    # From checkpoint 2 after the worker's death, from 6 after the driver's.
    taken = [
        (line.progress.step, line.effort.workers) for line in read_lines(runs / "moved" / PROGRESS)
    ]
    assert taken == [
        *((step, 2) for step in range(1, WORKER_DIES + 1)),
        *((step, 2) for step in range(3, DRIVER_DIES + 1)),
        *((step, 1) for step in range(7, STEPS + 1)),
    ]
    straight: list[StageRun[Any]] = [
        StageRun("moved", sft.run, moved(tmp_path, "straight")),
        StageRun("sharded", learn, sharded(tmp_path, "whole", 1)),
    ]
    for each in straight:
        run_stage(each, tmp_path / "straight runs")
        assert_alike(tmp_path / "straight runs" / each.name / PROGRESS, runs / each.name / PROGRESS)
    assert not [*runs.glob("*/step-*"), *runs.glob("*/notice-*")], "nothing of it is on the volume"
    keys = CheckpointBucket(place).keys(f"{PREFIX}/")
    manifests = sorted(
        key.removeprefix(f"{PREFIX}/") for key in keys if key.endswith(f"/{MANIFEST}")
    )
    kept = ("moved/step-000010", "moved/step-000012", "sharded/step-000000", "sharded/step-000002")
    assert manifests == [f"{name}/{MANIFEST}" for name in kept]
    assert {
        key.removeprefix(f"{PREFIX}/").rsplit("/", 1)[0].removesuffix("/parts") for key in keys
    } == set(kept)
    shards = json.loads(CheckpointBucket(place).get(f"{PREFIX}/sharded/step-000002/{MANIFEST}"))[
        "files"
    ]
    assert sum(name.endswith(".safetensors") for name in shards) == 2
    assert verify_manifest(tmp_path / "moved").kind == "model"


def told_of(place: BucketLocation) -> dict[str, str]:
    given = {
        "ENDPOINT": place.endpoint,
        "ACCESS_KEY": place.access_key,
        "SECRET_KEY": place.secret_key,
    }
    given |= {"BUCKET": place.bucket, "SECURE": "false"}
    return {f"TW_TRAINING_S3_{name}": value for name, value in given.items()}
