"""SeaweedFS's S3: master, volumes, filer and S3 door in one process. Its reports to its makers are
off.

It is stopped by SIGKILL: on SIGTERM its filer waits 15 s, a number in its source, for a stream that
it holds open to itself. What it acknowledged is with the operating system by then;
tests/infra/servers/test_seaweedfs.py kills it and looks.
"""

import asyncio
import io
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from signal import SIGKILL
from typing import TYPE_CHECKING

from infra.supervision.child import Program
from infra.supervision.kept import kept
from infra.supervision.ports import HOST

if TYPE_CHECKING:
    from minio import Minio

ACCESS_KEY = "thumbwheel"
# Each with a gRPC twin.
DOORS = ("s3", "master", "volume", "filer")
PORTS = 2 * len(DOORS)
ASK_SECONDS = 4.0
OWN_BUCKET = "readiness"


@dataclass(frozen=True)
class SeaweedFS:
    """One store on loopback; its secret key is made once and lies in its folder.

    Args:
        ports: eight: of the S3 door, the master, the volumes and the filer, and then their gRPC
            twins in the same order.
        listens_on: where the S3 door is; the others stay on loopback.
    """

    folder: Path
    ports: tuple[int, ...]
    listens_on: str = HOST

    @property
    def endpoint(self) -> str:
        """host:port, as the minio client wants it."""
        return f"{HOST}:{self.ports[0]}"

    @property
    def secret_key(self) -> str:
        return kept(self.folder / "secret.key")

    def prepare(self, binary: Path) -> tuple[Program, ...]:
        """Write who may do what."""
        data, logs, identities = (
            self.folder / "data",
            self.folder / "logs",
            self.folder / "identities.json",
        )
        for made in (data, logs):
            made.mkdir(parents=True, exist_ok=True)
        identities.touch(mode=0o600)
        identities.write_text(json.dumps(self._identities()))
        doors = zip(DOORS, self.ports[: len(DOORS)], self.ports[len(DOORS) :], strict=True)
        ports = [
            word
            for door, http, grpc in doors
            for word in (f"-{door}.port={http}", f"-{door}.port.grpc={grpc}")
        ]
        program = Program(
            name="seaweedfs",
            command=(
                *(
                    str(binary),
                    f"-logdir={logs}",
                    "-logtostderr=true",
                    "server",
                    f"-ip={HOST}",
                    f"-ip.bind={HOST}",
                    f"-s3.ip.bind={self.listens_on}",
                    *ports,
                ),
                *(
                    f"-dir={data}",
                    "-s3",
                    f"-s3.config={identities}",
                    "-s3.port.iceberg=0",
                    "-s3.port.lance=0",
                ),
                *(
                    "-volume.max=1000",
                    "-master.volumeSizeLimitMB=256",
                    "-master.telemetry=false",
                    "-master.electionTimeout=1s",
                    "-s3.iam=false",
                ),
            ),
            # A bucket begins with seven volumes, else, and a few buckets take them all.
            environment={"WEED_MASTER_VOLUME_GROWTH_COPY_1": "1", "GOMEMLIMIT": "256MiB"},
            port=self.ports[0],
            stop_signal=SIGKILL,
            ready=partial(is_ready, self.endpoint, self.secret_key),
            litter=tuple(self._sockets()),
        )
        return (program,)

    def _identities(self) -> dict[str, object]:
        credentials = [{"accessKey": ACCESS_KEY, "secretKey": self.secret_key}]
        return {
            "identities": [{"name": ACCESS_KEY, "credentials": credentials, "actions": ["Admin"]}]
        }

    def _sockets(self) -> list[Path]:
        """Sockets that it puts into /tmp, named after its ports; options move two of them, not all."""
        names = [f"{door}-{http}" for door, http in zip(DOORS, self.ports, strict=False)]
        names += [f"{door}-grpc-{port}" for door in DOORS for port in self.ports]
        return [Path("/tmp") / f"seaweedfs-{name}.sock" for name in names]  # noqa: S108 - its choice


def connect(endpoint: str, secret_key: str) -> "Minio":
    """A client that gives up soon; minio's own waits for half an hour."""
    # Not above: where the server only runs, in an image, there is no client.
    import urllib3
    from minio import Minio

    pool = urllib3.PoolManager(timeout=urllib3.Timeout(ASK_SECONDS), retries=False)
    return Minio(
        endpoint, access_key=ACCESS_KEY, secret_key=secret_key, secure=False, http_client=pool
    )


async def is_ready(endpoint: str, secret_key: str) -> bool:
    """Whether a bucket can be made and an object be written: the port answers many seconds before
    that.
    """
    return await asyncio.to_thread(_can_write, endpoint, secret_key)


def _can_write(endpoint: str, secret_key: str) -> bool:
    import urllib3
    from minio.error import MinioException

    client = connect(endpoint, secret_key)
    try:
        if not client.bucket_exists(OWN_BUCKET):
            client.make_bucket(OWN_BUCKET)
        client.put_object(OWN_BUCKET, "ready", io.BytesIO(b"yes"), 3)
    except (MinioException, urllib3.exceptions.HTTPError, OSError):
        return False
    return True
