"""Bucket access: equal to a directory, verified by hashes, with bounded retries."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from urllib3.exceptions import ProtocolError

from infra.machine.servers import seaweedfs
from infra.simulate.faults.http import HttpFault, HttpProxy, Kind
from infra.simulate.faults.proxy import Chance
from tests import servers
from tests.s3_server import S3Server, serving
from tests.support.credentials_server import CredentialsServer, web_identity
from tests.support.errors import refused
from tests.training.feedback_log import FeedbackLog
from training.cluster.bucket_checkpoints import CheckpointBucket, CheckpointStoreError
from training.data.feedback.bucket import TRIES, Bucket, BucketLocation, bucket_location
from training.data.feedback.catalogue import CatalogueError, Directory, Objects
from training.data.feedback.snapshot import Snapshot, SnapshotConfig, take_snapshot
from training.errors import ConfigError

ENVIRONMENT = {
    "TW_TRAINING_S3_ENDPOINT": "s3:9000",
    "TW_TRAINING_S3_ACCESS_KEY": "a",
    "TW_TRAINING_S3_SECRET_KEY": "b",
}


@pytest.fixture
def log(tmp_path: Path) -> FeedbackLog:
    log = FeedbackLog(tmp_path / "objects")
    log.turn("a", "ann", "hi", "hello")
    log.thumb("a", "ann", True)
    log.commit()
    return log


@pytest.fixture
def server(log: FeedbackLog, tmp_path: Path) -> S3Server:
    """Server with the objects of the log in a bucket."""
    server, root = S3Server(), tmp_path / "objects"
    server.buckets["thumbs"] = {
        path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*.parquet")
    }
    return server


@pytest.fixture
def proxy(server: S3Server) -> Iterator[HttpProxy]:
    with serving(server) as port, HttpProxy(port) as proxy:
        yield proxy


def bucket(proxy: HttpProxy, name: str = "thumbs") -> Bucket:
    return Bucket(BucketLocation(f"127.0.0.1:{proxy.port}", "access", "secret", name, secure=False))


def snapshot_of(log: FeedbackLog, objects: Objects, into: Path) -> Snapshot:
    return take_snapshot(log, objects, SnapshotConfig(), into, "commit")


def test_a_bucket_and_a_directory_give_the_same_snapshot(
    log: FeedbackLog, proxy: HttpProxy, tmp_path: Path
) -> None:
    from_bucket = snapshot_of(log, bucket(proxy), tmp_path / "1")
    assert from_bucket.id == snapshot_of(log, Directory(tmp_path / "objects"), tmp_path / "2").id
    assert from_bucket.thumbs == 1


def test_a_real_store_gives_the_same_snapshot(
    s3: servers.S3Server, log: FeedbackLog, tmp_path: Path
) -> None:
    there, root = s3.bucket(), tmp_path / "objects"
    client = seaweedfs.connect(there.endpoint, there.secret_key)
    for path in root.rglob("*.parquet"):
        client.fput_object(there.name, path.relative_to(root).as_posix(), str(path))
    objects = Bucket(
        BucketLocation(there.endpoint, there.access_key, there.secret_key, there.name, secure=False)
    )
    assert (
        snapshot_of(log, objects, tmp_path / "1").id
        == snapshot_of(log, Directory(root), tmp_path / "2").id
    )


def test_changed_and_missing_objects_are_refused(
    log: FeedbackLog, server: S3Server, proxy: HttpProxy, tmp_path: Path
) -> None:
    key = log.feedback_segments()[0].object_key
    server.buckets["thumbs"][key] += b" "
    with refused(CatalogueError, field="sha256", reason="MISMATCH"):
        snapshot_of(log, bucket(proxy), tmp_path / "1")
    del server.buckets["thumbs"][key]
    with refused(CatalogueError, field="object_key", reason="MISSING"):
        snapshot_of(log, bucket(proxy), tmp_path / "1")


def test_truncated_response_body_is_read_again(server: S3Server, proxy: HttpProxy) -> None:
    server.buckets["thumbs"]["a"] = bytes(300_000)
    proxy.faults = (HttpFault(Kind.ANSWER_RESET, Chance(times=TRIES - 1), body_bytes=200_000),)
    assert bucket(proxy).get("a") == bytes(300_000)
    proxy.faults = (HttpFault(Kind.ANSWER_RESET, body_bytes=200_000),)
    with refused(CatalogueError, field="bucket", reason="UNREACHABLE") as caught:
        bucket(proxy).get("a")
    assert isinstance(caught.value.__cause__, ProtocolError)
    assert proxy.counts[Kind.ANSWER_RESET] == 2 * TRIES - 1


def test_busy_store_is_retried_and_missing_bucket_is_not(
    server: S3Server, proxy: HttpProxy
) -> None:
    server.buckets["thumbs"]["a"] = b"1"
    server.refusals = ["SlowDown", "InternalError"]
    assert bucket(proxy).get("a") == b"1"
    assert server.requests["GET"] == 3
    with refused(CatalogueError, field="bucket", reason="UNAVAILABLE") as caught:
        bucket(proxy, "nowhere").get("a")
    assert "nowhere" in caught.value.text
    assert "NoSuchBucket" in caught.value.text
    assert server.requests["GET"] == 4


def test_object_key_cannot_leave_the_directory(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    with refused(CatalogueError, field="object_key", reason="OUT_OF_RANGE"):
        Directory(tmp_path / "objects").get("../secret")


def test_bucket_location_is_read_from_the_environment() -> None:
    assert bucket_location({"PATH": "/bin"}) is None
    assert bucket_location(ENVIRONMENT) == BucketLocation(
        "s3:9000", "a", "b", "thumbwheel", "us-east-1", True
    )
    given = ENVIRONMENT | {"TW_TRAINING_S3_SECURE": "false", "TW_TRAINING_S3_BUCKET": "other"}
    assert bucket_location(given) == BucketLocation(
        "s3:9000", "a", "b", "other", "us-east-1", False
    )
    assert "'b'" not in repr(bucket_location(ENVIRONMENT))


@pytest.mark.parametrize(
    ("wrong", "field", "reason"),
    [
        ({"TW_TRAINING_S3_BUKET": "x"}, "TW_TRAINING_S3_BUKET", "UNKNOWN"),
        ({"TW_TRAINING_S3_SECRET_KEY": ""}, "TW_TRAINING_S3_SECRET_KEY", "MISSING"),
        ({"TW_TRAINING_S3_SECURE": "no"}, "TW_TRAINING_S3_SECURE", "WRONG_TYPE"),
        ({"TW_TRAINING_S3_CREDENTIALS": "iam"}, "TW_TRAINING_S3_CREDENTIALS", "WRONG_TYPE"),
        ({"TW_TRAINING_S3_CREDENTIALS": "chain"}, "TW_TRAINING_S3_ACCESS_KEY", "UNUSED"),
    ],
)
def test_invalid_variable_is_named(wrong: dict[str, str], field: str, reason: str) -> None:
    with refused(ConfigError, field=field, reason=reason):
        bucket_location(ENVIRONMENT | wrong)


def test_objects_are_read_and_written_with_temporary_credentials(
    server: S3Server, log: FeedbackLog, proxy: HttpProxy, tmp_path: Path
) -> None:
    location = bucket_location(
        {
            "TW_TRAINING_S3_ENDPOINT": f"127.0.0.1:{proxy.port}",
            "TW_TRAINING_S3_CREDENTIALS": "chain",
            "TW_TRAINING_S3_SECURE": "false",
            "TW_TRAINING_S3_BUCKET": "thumbs",
        }
    )
    assert location is not None
    issuer = CredentialsServer()
    server.authorize = issuer.authorize
    with web_identity(issuer, tmp_path):
        snapshot_of(log, Bucket(location), tmp_path / "snapshot")
        checkpoints = CheckpointBucket(location, pause_seconds=0)
        checkpoints.put("a", b"x")
        assert checkpoints.get("a") == b"x"
        assert len(issuer.issued) == 2
        issuer.identity = "another.web.identity"
        with refused(CatalogueError, field="bucket", reason="UNREACHABLE"):
            Bucket(location).get("a")
        with refused(CheckpointStoreError, field="a", reason="DENIED"):
            CheckpointBucket(location, pause_seconds=0).get("a")
