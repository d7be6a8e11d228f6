"""Candidates in an object store: written after the gate, before any user gets them."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.s3_server import S3Server, serving
from tests.support.errors import refused
from tests.training.state_folder import StateFolder
from training.artifacts.manifest import MANIFEST, write_manifest
from training.artifacts.registry import VersionStage
from training.errors import UnavailableError
from training.evaluation.gate import Check, Decision, Result
from training.loop import admit
from training.model_store.bucket import ModelBucket, open_store

PASSED = Decision((Check("win rate", "0.60", "above 0.5", Result.PASS, "judged"),))


@pytest.fixture
def objects() -> Iterator[tuple[S3Server, ModelBucket]]:
    store = S3Server()
    store.buckets["team"] = {}
    with serving(store) as port:
        settings = {
            "TW_TRAINING_S3_ENDPOINT": f"127.0.0.1:{port}",
            "TW_TRAINING_S3_ACCESS_KEY": "key",
            "TW_TRAINING_S3_SECRET_KEY": "secret",
            "TW_TRAINING_S3_SECURE": "false",
        }
        yield store, open_store("s3://team/models", "--model-store", settings)


def test_candidate_is_in_the_store_before_the_canary(
    tmp_path: Path, objects: tuple[S3Server, ModelBucket]
) -> None:
    server, store = objects
    kept = StateFolder(tmp_path)
    kept.chat("ann", "bob")
    run = kept.begin("nano-1")
    run = replace(run, env=replace(run.env, store=store))
    output = run.config.ppo.output_directory
    output.mkdir(parents=True)
    (output / "model.safetensors").write_bytes(b"weights")
    write_manifest(output, kind="model", version="nano-1")
    server.refusals = ["AccessDenied"]
    with refused(UnavailableError, reason="DENIED"):
        admit(run, PASSED)
    assert kept.registry.history()[-1].stage is VersionStage.CANDIDATE
    admit(run, PASSED)
    assert kept.registry.history()[-1].stage is VersionStage.GATED
    assert store.versions() == ["nano-1"]
    stored = server.buckets["team"]
    assert stored["models/nano-1/model.safetensors"] == b"weights"
    assert stored[f"models/nano-1/{MANIFEST}"] == (output / MANIFEST).read_bytes()
