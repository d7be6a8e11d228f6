"""The object store keeps acknowledged objects after SIGKILL, which is also its normal stop."""

import io

import pytest
from minio.error import S3Error

from infra.machine.servers.seaweedfs import connect
from tests.servers import S3Server


@pytest.mark.slow
def test_acknowledged_objects_survive_a_kill_and_sockets_are_removed(s3: S3Server) -> None:
    bucket = s3.bucket()
    client = connect(bucket.endpoint, bucket.secret_key)
    for number in range(20):
        client.put_object(bucket.name, f"part-{number}", io.BytesIO(b"x" * 10_000), 10_000)
    (process,) = s3.processes
    sockets = [file for file in process.program.leftovers if file.exists()]
    assert sockets, "it keeps its sockets elsewhere now: Program.leftovers is out of date"
    s3.kill()
    assert not [file for file in sockets if file.exists()]
    s3.start()
    assert len(list(client.list_objects(bucket.name))) == 20
    assert client.get_object(bucket.name, "part-7").read() == b"x" * 10_000


def test_wrong_key_is_rejected(s3: S3Server) -> None:
    bucket = s3.bucket()
    with pytest.raises(S3Error) as caught:
        connect(bucket.endpoint, "wrong").bucket_exists(bucket.name)
    assert caught.value.code == "SignatureDoesNotMatch"


def test_many_buckets_accept_objects(s3: S3Server) -> None:
    for bucket in [s3.bucket() for _ in range(12)]:
        connect(bucket.endpoint, bucket.secret_key).put_object(
            bucket.name, "one", io.BytesIO(b"x"), 1
        )
