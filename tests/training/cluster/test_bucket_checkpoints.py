"""Checkpoints in a bucket: complete or absent, the newest two, several workers, a new machine."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from infra.simulate.faults.http import HttpFault, HttpProxy, Kind
from infra.simulate.faults.proxy import Chance
from tests import servers
from tests.s3_server import S3Server, serving
from tests.support.errors import refused
from tests.training.cluster.runs import Told, sft_config
from tests.training.toys import sft_rows, toy_model, write_lines
from tests.training.workers import run_workers
from training.artifacts import manifest
from training.artifacts.manifest import MANIFEST, hash_file
from training.cluster import bucket_checkpoints
from training.cluster.bucket_checkpoints import (
    BucketCheckpoints,
    CheckpointBucket,
    CheckpointStoreError,
)
from training.cluster.group import Group
from training.cluster.runner import StageRun, run_stages
from training.data.feedback.bucket import TRIES, BucketLocation
from training.errors import ConfigError
from training.parallelism.layout import Parallelism, arrange, distribute
from training.runtime.ranks import all_different
from training.runtime.training_state import TrainingState
from training.stages import sft

BUCKET, PREFIX = "kept", "checkpoints/nano-1/ppo"


@pytest.fixture
def server() -> S3Server:
    server = S3Server()
    server.buckets[BUCKET] = {}
    return server


@pytest.fixture
def proxy(server: S3Server) -> Iterator[HttpProxy]:
    with serving(server) as port, HttpProxy(port) as proxy:
        yield proxy


def place(port: int) -> BucketLocation:
    return BucketLocation(f"127.0.0.1:{port}", "access", "secret", BUCKET, secure=False)


def checkpoints(port: int, scratch: Path) -> BucketCheckpoints:
    return BucketCheckpoints(CheckpointBucket(place(port), pause_seconds=0.01), PREFIX, scratch)


def state_of(value: float) -> TrainingState:
    return TrainingState({"model": [("weight", nn.Parameter(torch.full((4,), float(value))))]}, {})


def keep(kept: BucketCheckpoints, *steps: int) -> None:
    for step in steps:
        kept.save(step, lambda into, step=step: state_of(step).write(into, {"step": step}))  # type: ignore[misc]


def value_in(checkpoint: Path | None) -> float:
    state = state_of(-1.0)
    assert checkpoint is not None
    numbers = state.read(checkpoint)
    value = float(state.parameters["model"][0][1].detach()[0])
    assert numbers == {"step": value}
    return value


def test_newest_two_checkpoints_remain_and_other_machines_find_the_newest(
    proxy: HttpProxy, server: S3Server, tmp_path: Path
) -> None:
    keep(checkpoints(proxy.port, tmp_path / "one"), 0, 5, 10)
    elsewhere = checkpoints(proxy.port, tmp_path / "other")
    assert value_in(elsewhere.latest()) == 10
    assert value_in(elsewhere.latest(before=10)) == 5
    assert elsewhere.latest(before=5) is None
    assert {key.split("/")[3] for key in server.buckets[BUCKET]} == {"step-000005", "step-000010"}
    assert not list((tmp_path / "one").iterdir()), "what was uploaded stays nowhere else"


def test_checkpoint_on_notice_is_the_newest_until_the_next_one(
    proxy: HttpProxy, server: S3Server, tmp_path: Path
) -> None:
    kept = checkpoints(proxy.port, tmp_path)
    keep(kept, 0, 5, 10)
    kept.save(12, lambda into: state_of(12).write(into, {"step": 12}), on_notice=True)
    assert {key.split("/")[3] for key in server.buckets[BUCKET]} == {
        "step-000005",
        "step-000010",
        "notice-000012",
    }
    assert value_in(kept.latest()) == 12
    assert value_in(kept.latest(before=13)) == 10, "nothing to go back to"
    keep(kept, 15)
    assert {key.split("/")[3] for key in server.buckets[BUCKET]} == {"step-000010", "step-000015"}


def test_incomplete_checkpoint_is_ignored_and_removed_later(
    proxy: HttpProxy, server: S3Server, tmp_path: Path
) -> None:
    kept = checkpoints(proxy.port, tmp_path)
    keep(kept, 5, 10)
    objects = server.buckets[BUCKET]
    del objects[f"{PREFIX}/step-000010/{MANIFEST}"]
    objects[f"{PREFIX}/step-000010/of-another-layout.safetensors"] = b"left over"
    assert value_in(kept.latest()) == 5
    keep(kept, 10)
    assert f"{PREFIX}/step-000010/of-another-layout.safetensors" not in objects
    del objects[f"{PREFIX}/step-000010/{MANIFEST}"]
    keep(kept, 15)
    assert {key.split("/")[3] for key in objects} == {"step-000005", "step-000015"}


@pytest.mark.parametrize("lost", [True, False])
def test_bucket_checkpoint_that_differs_from_its_manifest_is_ignored(
    proxy: HttpProxy, server: S3Server, tmp_path: Path, lost: bool
) -> None:
    kept = checkpoints(proxy.port, tmp_path)
    keep(kept, 5, 10)
    (tensors,) = (
        k for k in server.buckets[BUCKET] if "step-000010" in k and k.endswith(".safetensors")
    )
    if lost:
        del server.buckets[BUCKET][tensors]
    else:
        server.buckets[BUCKET][tensors] += b" "
    assert value_in(kept.latest()) == 5


def test_manifest_is_uploaded_last_and_removed_first(
    proxy: HttpProxy, server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    answer = server.answer

    def listening(method: str, target: str, body: bytes) -> tuple[int, bytes]:
        if method in ("PUT", "DELETE"):
            told.append(f"{method} {'/'.join(target.split('?')[0].rsplit('/', 2)[1:])}")
        return answer(method, target, body)

    monkeypatch.setattr(server, "answer", listening)
    keep(checkpoints(proxy.port, tmp_path), 1)
    assert told[-1] == f"PUT step-000001/{MANIFEST}"
    assert len(told) == 4  # tensors, numbers, and the list of this worker's uploads
    server.buckets[BUCKET][f"{PREFIX}/step-000001/another"] = b""
    keep(checkpoints(proxy.port, tmp_path), 1)
    assert told[4] == f"DELETE step-000001/{MANIFEST}"


def test_save_lists_the_bucket_twice_and_hashes_files_once(
    proxy: HttpProxy, server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, listings, hashed = checkpoints(proxy.port, tmp_path), 0, []
    keep(kept, 1, 2)
    answer = server.answer

    def counting(method: str, target: str, body: bytes) -> tuple[int, bytes]:
        nonlocal listings
        listings += (
            "list-type=2" in target and "continuation-token" not in target
        )  # pages are small
        return answer(method, target, body)

    def noted(path: Path) -> str:
        hashed.append(path.name)
        return hash_file(path)

    monkeypatch.setattr(server, "answer", counting)
    for module in (bucket_checkpoints, manifest):
        monkeypatch.setattr(module, "hash_file", noted)
    keep(kept, 3)
    assert listings == 2
    assert len(hashed) == len(set(hashed)) == 2  # tensors and numbers


def test_temporary_failures_are_retried_a_limited_number_of_times(
    proxy: HttpProxy, server: S3Server, tmp_path: Path
) -> None:
    kept = checkpoints(proxy.port, tmp_path)
    server.refusals = ["SlowDown", "InternalError"]
    keep(kept, 5)
    proxy.faults = (HttpFault(Kind.ANSWER_RESET, Chance(times=TRIES - 1), body_bytes=20),)
    assert value_in(kept.latest()) == 5
    server.refusals = ["AccessDenied"]
    with refused(CheckpointStoreError, field=f"{PREFIX}/", reason="DENIED") as caught:
        kept.latest()
    assert BUCKET in str(caught.value)
    assert "AccessDenied" in str(caught.value)
    assert not server.refusals, "a refusal is not asked again"
    proxy.faults = (HttpFault(Kind.ANSWER_RESET, body_bytes=20),)
    with refused(CheckpointStoreError, field=f"{PREFIX}/", reason="UNREACHABLE") as caught:
        kept.latest()
    assert BUCKET in str(caught.value)


def test_real_store_accepts_multipart_uploads(s3: servers.S3Server, tmp_path: Path) -> None:
    there = s3.bucket()
    bucket = CheckpointBucket(
        BucketLocation(there.endpoint, there.access_key, there.secret_key, there.name, secure=False)
    )
    large = nn.Parameter(torch.arange(3 << 20, dtype=torch.float32))  # 12 MiB with parts of 5 MiB
    kept = BucketCheckpoints(bucket, PREFIX, tmp_path / "one")
    kept.save(
        3, lambda into: TrainingState({"model": [("weight", large)]}, {}).write(into, {"step": 3})
    )
    read = nn.Parameter(torch.zeros(3 << 20))
    found = BucketCheckpoints(bucket, PREFIX, tmp_path / "other").latest()
    assert found is not None
    assert TrainingState({"model": [("weight", read)]}, {}).read(found) == {"step": 3}
    assert torch.equal(read, large)


def layer(value: float) -> nn.Module:
    from tests.training.rl.toy import toy_decoder

    decoder = toy_decoder()
    with torch.no_grad():
        for number, parameter in enumerate(decoder.parameters()):
            parameter.fill_(value + number)
    return decoder


def keep_shards(directory: Path, rank: int, world: int, port: str) -> None:
    """Save the shards of a worker on its own machine."""
    ranks = arrange(Parallelism(shard=2), all_different(rank, world))
    decoder = layer(1.0)
    distribute(decoder, ranks)  # type: ignore[arg-type]
    kept = BucketCheckpoints(
        CheckpointBucket(place(int(port))), PREFIX, directory / f"machine-{rank}", ranks
    )
    state = TrainingState({"model": list(decoder.named_parameters())}, {}, ranks)
    kept.save(7, lambda into: state.write(into, {"step": 7}))
    assert kept.latest() is not None


def test_workers_upload_their_shards_and_one_worker_reads_all(
    proxy: HttpProxy, server: S3Server, tmp_path: Path
) -> None:
    run_workers(
        "tests.training.cluster.test_bucket_checkpoints:keep_shards", 2, tmp_path, str(proxy.port)
    )
    files = json.loads(server.buckets[BUCKET][f"{PREFIX}/step-000007/{MANIFEST}"])["files"]
    assert sum(name.endswith(".safetensors") for name in files) == 2
    decoder, expected = layer(5.0), layer(1.0)
    found = checkpoints(proxy.port, tmp_path / "third").latest()
    assert found is not None
    assert TrainingState({"model": list(decoder.named_parameters())}, {}).read(found) == {"step": 7}
    assert all(map(torch.equal, decoder.parameters(), expected.parameters()))


def test_stage_with_an_empty_folder_resumes_from_the_bucket(
    proxy: HttpProxy, server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy_model(tmp_path / "first")
    write_lines(tmp_path / "sft.jsonl", sft_rows(40))
    run = StageRun("sft", sft.run, sft_config(tmp_path, "second"))
    with refused(ConfigError, field="TW_TRAINING_S3_ENDPOINT", reason="MISSING"):
        run_stages([run], tmp_path / "one", Group(), Told(), "checkpoints/nano-1")
    given = {
        "ENDPOINT": f"127.0.0.1:{proxy.port}",
        "ACCESS_KEY": "a",
        "SECRET_KEY": "b",
        "BUCKET": BUCKET,
        "SECURE": "false",
    }
    for name, value in given.items():
        monkeypatch.setenv(f"TW_TRAINING_S3_{name}", value)
    first = run_stages([run], tmp_path / "one", Group(), Told(), "checkpoints/nano-1")
    assert not list((tmp_path / "one" / "sft").glob("step-*"))
    assert f"checkpoints/nano-1/sft/step-000010/{MANIFEST}" in server.buckets[BUCKET]
    for key in list(server.buckets[BUCKET]):
        if "step-000010" in key:
            del server.buckets[BUCKET][key]
    seen = Told()
    again = StageRun(
        "sft", sft.run, replace(sft_config(tmp_path, "second"), output_directory=tmp_path / "again")
    )
    second = run_stages([again], tmp_path / "two", Group(), seen, "checkpoints/nano-1")
    assert seen.events == ["begin sft", "sft 9", "sft 10", "end sft"]
    assert first[0].files["model.safetensors"] == second[0].files["model.safetensors"]
