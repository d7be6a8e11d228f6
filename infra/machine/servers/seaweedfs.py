"""SeaweedFS with S3: master, volumes, filer and S3 server in a process. Telemetry is off.

The process is stopped by SIGKILL: on SIGTERM its filer waits a fixed 15 s for a stream to itself.
Acknowledged data are in the page cache of the operating system by then;
tests/infra/machine/servers/test_seaweedfs.py kills the process and checks.
"""

import asyncio
import io
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from signal import SIGKILL
from typing import TYPE_CHECKING

from infra.run.supervision.child import Program
from infra.run.supervision.ports import HOST
from infra.run.supervision.secret_file import read_or_create

if TYPE_CHECKING:
    from minio import Minio

ACCESS_KEY = "thumbwheel"
# Each component has an HTTP and a gRPC port.
COMPONENTS = ("s3", "master", "volume", "filer")
PORTS = 2 * len(COMPONENTS)
TIMEOUT_SECONDS = 4.0
OWN_BUCKET = "readiness"


@dataclass(frozen=True)
class SeaweedFS:
    """A store on loopback. Its secret key is generated once and stored in the folder.

    Args:
        ports: eight: HTTP ports of S3, master, volumes and filer, then their gRPC ports.
        listens_on: address of S3; the others stay on loopback.
    """

    folder: Path
    ports: tuple[int, ...]
    listens_on: str = HOST

    @property
    def endpoint(self) -> str:
        """Return host:port for the minio client."""
        return f"{HOST}:{self.ports[0]}"

    @property
    def secret_key(self) -> str:
        return read_or_create(self.folder / "secret.key")

    def prepare(self, binary: Path) -> tuple[Program, ...]:
        """Write the credentials and return the program."""
        data, logs, identities = (
            self.folder / "data",
            self.folder / "logs",
            self.folder / "identities.json",
        )
        for made in (data, logs):
            made.mkdir(parents=True, exist_ok=True)
        identities.touch(mode=0o600)
        credentials = [{"accessKey": ACCESS_KEY, "secretKey": self.secret_key}]
        admin = {"name": ACCESS_KEY, "credentials": credentials, "actions": ["Admin"]}
        identities.write_text(json.dumps({"identities": [admin]}))
        components = zip(
            COMPONENTS, self.ports[: len(COMPONENTS)], self.ports[len(COMPONENTS) :], strict=True
        )
        ports = [
            word
            for component, http, grpc in components
            for word in (f"-{component}.port={http}", f"-{component}.port.grpc={grpc}")
        ]
        # Sockets in /tmp, named after ports; options move only two of them.
        sockets = [f"{name}-{http}" for name, http in zip(COMPONENTS, self.ports, strict=False)]
        sockets += [f"{name}-grpc-{port}" for name in COMPONENTS for port in self.ports]
        program = Program(
            name="seaweedfs",
            command=(
                str(binary),
                f"-logdir={logs}",
                "-logtostderr=true",
                "server",
                f"-ip={HOST}",
                f"-ip.bind={HOST}",
                f"-s3.ip.bind={self.listens_on}",
                *ports,
                f"-dir={data}",
                "-s3",
                f"-s3.config={identities}",
                "-s3.port.iceberg=0",
                "-s3.port.lance=0",
                "-volume.max=1000",
                "-master.volumeSizeLimitMB=256",
                "-master.telemetry=false",
                "-master.electionTimeout=1s",
                "-s3.iam=false",
            ),
            # The default creates seven volumes per bucket, and a few buckets exhaust the limit.
            environment={"WEED_MASTER_VOLUME_GROWTH_COPY_1": "1", "GOMEMLIMIT": "256MiB"},
            port=self.ports[0],
            stop_signal=SIGKILL,
            ready=partial(is_ready, self.endpoint, self.secret_key),
            leftovers=tuple(Path("/tmp") / f"seaweedfs-{name}.sock" for name in sockets),  # noqa: S108
        )
        return (program,)


def connect(endpoint: str, secret_key: str) -> "Minio":
    """Return a client with short time-outs; the default client retries for half an hour."""
    # Imported here: the image of the server contains no client.
    import urllib3
    from minio import Minio

    pool = urllib3.PoolManager(timeout=urllib3.Timeout(TIMEOUT_SECONDS), retries=False)
    return Minio(
        endpoint, access_key=ACCESS_KEY, secret_key=secret_key, secure=False, http_client=pool
    )


async def is_ready(endpoint: str, secret_key: str) -> bool:
    """Return True if a bucket and an object can be written.

    The port accepts connections many seconds earlier.
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
