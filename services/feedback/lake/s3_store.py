"""ObjectStore over any S3, by the `minio` client: one plain PUT an object, so that a reader never
sees a part of it.

No conditional write is relied upon: the client cannot send `If-None-Match`, and stores differ in
what they make of it. The client's own limits are 300 s × 6 tries, and up to 6 h where a 503 says
Retry-After; ours are the settings'.
"""

import logging
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from io import BytesIO
from types import TracebackType
from typing import Self
from xml.etree.ElementTree import ParseError

from minio import Minio
from minio.error import MinioException, S3Error
from urllib3 import BaseHTTPResponse, PoolManager, Retry, Timeout
from urllib3.connectionpool import ConnectionPool
from urllib3.exceptions import (
    HTTPError,
    MaxRetryError,
    NewConnectionError,
    ProtocolError,
    TimeoutError,
)

from services.chassis.telemetry import fields
from services.feedback.lake.object_store import (
    ObjectMissingError,
    ObjectRefusedError,
    ObjectStoreError,
    StoredObject,
    check_key,
)

log = logging.getLogger(__name__)

MAX_TRIES = 3
# Between the second try and the third; the first repetition comes at once, since most often an idle
# connection was closed.
BACKOFF_SECONDS = 0.4
MAX_BACKOFF_SECONDS = 2.0
READ_BYTES = 1 << 20
# Kept open for the next call: one a sink that writes at the same time. The pool's own is one.
CONNECTIONS = 16
PASSING_STATUSES = frozenset({429, 500, 502, 503, 504})
# Which setting to look at, by the code of S3's answer.
SETTING_BY_CODE = {
    "NoSuchBucket": "s3_bucket",
    "InvalidBucketName": "s3_bucket",
    "BucketAlreadyExists": "s3_bucket",
    "InvalidAccessKeyId": "s3_access_key",
    "AccessDenied": "s3_access_key",
    "SignatureDoesNotMatch": "s3_secret_key",
    "AuthorizationHeaderMalformed": "s3_region",
    "PermanentRedirect": "s3_region",
    "IllegalLocationConstraintException": "s3_region",
}
SELF_TEST_PREFIX = "self-test/"


class ImmediateRetry(Retry):
    """Repeats what failed at once. A server that was silent until the time-out is left alone: who
    called waits longer.
    """

    def increment(
        self,
        method: str | None = None,
        url: str | None = None,
        response: BaseHTTPResponse | None = None,
        error: Exception | None = None,
        _pool: ConnectionPool | None = None,
        _stacktrace: TracebackType | None = None,
    ) -> Self:
        # Of urllib3's time-outs a refused connection is one too.
        if isinstance(error, TimeoutError) and not isinstance(error, NewConnectionError):
            raise error
        return super().increment(method, url, response, error, _pool, _stacktrace)


@dataclass(frozen=True)
class S3Location:
    """Where the objects are, who asks, and how long. `request_seconds` limits each of sending,
    silence, and reading.
    """

    endpoint: str
    bucket: str
    region: str
    secure: bool
    access_key: str
    secret_key: str = field(repr=False)
    connect_seconds: float
    request_seconds: float


def _client(location: S3Location) -> Minio:
    """With our patience; it asks nothing yet."""
    retries = ImmediateRetry(
        total=MAX_TRIES - 1,
        redirect=False,  # S3 answers 301 for another region, which is told and not followed
        status_forcelist=PASSING_STATUSES,
        raise_on_status=False,
        backoff_factor=BACKOFF_SECONDS / 2,
        retry_after_max=int(MAX_BACKOFF_SECONDS),
    )
    return Minio(
        location.endpoint,
        access_key=location.access_key,
        secret_key=location.secret_key,
        secure=location.secure,
        region=location.region,
        # One time-out for connecting, one for everything after: urllib3 also limits the sending of
        # the whole body by it.
        http_client=PoolManager(
            maxsize=CONNECTIONS,
            timeout=Timeout(connect=location.connect_seconds, read=location.request_seconds),
            retries=retries,
        ),
    )


class S3Store:
    """An object store in one bucket. Every call blocks; safe to call from several threads."""

    def __init__(self, location: S3Location) -> None:
        self._location, self._client, self._bucket = location, _client(location), location.bucket

    def put(self, key: str, data: bytes) -> None:
        check_key(key)
        with self._translated("put", key):
            # Below 525 MiB the client sends one PUT, and no multipart upload whose parts a crash
            # would leave.
            self._client.put_object(self._bucket, key, BytesIO(data), len(data))

    def get(self, key: str) -> bytes:
        check_key(key)
        with self._translated("get", key):
            for _ in range(MAX_TRIES - 1):
                # The pool repeats requests, but not a body that breaks off.
                with suppress(ProtocolError):
                    return self._read(key)
            return self._read(key)

    def delete(self, key: str) -> None:
        check_key(key)
        with self._translated("delete", key):
            self._client.remove_object(self._bucket, key)

    def list(self, prefix: str) -> Iterator[StoredObject]:
        with self._translated("list", prefix):
            for found in self._client.list_objects(self._bucket, prefix, recursive=True):
                if found.object_name and found.last_modified and not found.is_dir:
                    yield StoredObject(
                        found.object_name, int(found.last_modified.timestamp() * 1_000_000)
                    )

    def make_bucket(self) -> bool:
        """False: it was there. Raises: ObjectStoreError."""
        with self._translated("make", self._bucket):
            if self._client.bucket_exists(self._bucket):
                return False
            self._client.make_bucket(self._bucket)
        return True

    def check(self) -> None:
        """That the bucket can be listed, written, read back equal and deleted.

        The listing comes first: SeaweedFS makes a missing bucket at the first PUT, and would hide a
        misspelt name.

        Raises:
            ObjectRefusedError: names the setting.
            ObjectStoreError: the store is away; it may be right.
        """
        key, data = f"{SELF_TEST_PREFIX}{uuid.uuid4().hex}", uuid.uuid4().bytes
        next(self.list(SELF_TEST_PREFIX), None)
        self.put(key, data)
        if self.get(key) != data:
            raise ObjectRefusedError(
                "s3_endpoint: what was put is not what was got",
                field="s3_endpoint",
                reason="MISMATCH",
            )
        self.delete(key)
        with suppress(ObjectMissingError):
            self.get(key)
            raise ObjectRefusedError(
                "s3_endpoint: what was deleted can still be got",
                field="s3_endpoint",
                reason="EXISTS",
            )

    def _read(self, key: str) -> bytes:
        deadline = time.monotonic() + self._location.request_seconds
        parts = []
        with closing(self._client.get_object(self._bucket, key)) as response:
            while part := response.read1(READ_BYTES):
                parts.append(part)
                if time.monotonic() > deadline:
                    raise TimeoutError(
                        f"the body took longer than {self._location.request_seconds:g} s"
                    )
        return b"".join(parts)

    @contextmanager
    def _translated(self, operation: str, name: str) -> Iterator[None]:
        """The client's errors as ours; its hundred codes are told apart by what can be done about
        them.
        """
        try:
            yield
        except S3Error as error:
            if error.code == "NoSuchKey":
                raise ObjectMissingError(f"no object {name}", field=name) from error
            self._warn(operation, str(error.code))
            if error.response.status in PASSING_STATUSES:
                raise ObjectStoreError(
                    f"could not {operation} {name}: {error.code}", field=name, reason="OVERLOADED"
                ) from error
            setting = SETTING_BY_CODE.get(error.code or "", "s3_endpoint")
            raise ObjectRefusedError(
                f"{setting}: {self._location.endpoint} answers {error.code} ({operation} in bucket {self._bucket})",
                field=setting,
            ) from error
        except (MinioException, HTTPError, ParseError) as error:
            cause = type(error.reason if isinstance(error, MaxRetryError) else error).__name__
            self._warn(operation, cause)
            raise ObjectStoreError(
                f"s3_endpoint: {self._location.endpoint} did not answer {operation} {name}: {cause}",
                field="s3_endpoint",
                reason="UNREACHABLE",
            ) from error

    def _warn(self, operation: str, cause: str) -> None:
        log.warning("object store call failed", extra=fields(operation=operation, cause=cause))
