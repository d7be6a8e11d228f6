"""ObjectStore over S3 with the `minio` client.

Each object is written by one plain PUT, so readers never see a partial object. Conditional writes
are not used: the client cannot send `If-None-Match`, and stores interpret the header differently.
The client's own limits are 300 s × 6 tries, and up to 6 h if a 503 carries Retry-After; the limits
here are those of the settings.
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

from s3_credentials.chain import CredentialsError, credentials_of
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
# Pause between the second and third try. The first retry is immediate, since most failures are idle
# connections closed by the server.
BACKOFF_SECONDS = 0.4
MAX_BACKOFF_SECONDS = 2.0
READ_BYTES = 1 << 20
# Idle connections in the pool, one per concurrent sink. The default of the pool is one.
CONNECTIONS = 16
PASSING_STATUSES = frozenset({429, 500, 502, 503, 504})
# Setting to check, by S3 error code.
SETTING_BY_CODE = {
    "NoSuchBucket": "s3_bucket",
    "InvalidBucketName": "s3_bucket",
    "BucketAlreadyExists": "s3_bucket",
    "InvalidAccessKeyId": "s3_access_key",
    "AccessDenied": "s3_access_key",
    "SignatureDoesNotMatch": "s3_secret_key",
    "ExpiredToken": "s3_credentials",
    "InvalidToken": "s3_credentials",
    "AuthorizationHeaderMalformed": "s3_region",
    "PermanentRedirect": "s3_region",
    "IllegalLocationConstraintException": "s3_region",
}
SELF_TEST_PREFIX = "self-test/"


class ImmediateRetry(Retry):
    """Retry for immediate failures.

    A time-out of a silent server is not retried, since the caller would wait even longer.
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
        # In urllib3 a refused connection is also a time-out error.
        if isinstance(error, TimeoutError) and not isinstance(error, NewConnectionError):
            raise error
        return super().increment(method, url, response, error, _pool, _stacktrace)


@dataclass(frozen=True)
class S3Location:
    """Address, credentials and time limits of an S3 store.

    `request_seconds` limits each of sending, server silence, and reading. Without an access key the
    credentials are those of the environment.
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
    """Return a client with the retries and time limits above, without contacting the store."""
    retries = ImmediateRetry(
        total=MAX_TRIES - 1,
        # S3 answers 301 for another region; the error is reported instead of followed
        redirect=False,
        status_forcelist=PASSING_STATUSES,
        raise_on_status=False,
        backoff_factor=BACKOFF_SECONDS / 2,
        retry_after_max=int(MAX_BACKOFF_SECONDS),
    )
    return Minio(
        location.endpoint,
        credentials=credentials_of(location.access_key, location.secret_key),
        secure=location.secure,
        region=location.region,
        # One limit for connecting and one for everything else: urllib3 applies the latter also to
        # sending the whole body.
        http_client=PoolManager(
            maxsize=CONNECTIONS,
            timeout=Timeout(connect=location.connect_seconds, read=location.request_seconds),
            retries=retries,
        ),
    )


class S3Store:
    """Object store in one S3 bucket; thread-safe, and every call blocks."""

    def __init__(self, location: S3Location) -> None:
        self._location, self._client, self._bucket = location, _client(location), location.bucket

    def put(self, key: str, data: bytes) -> None:
        check_key(key)
        with self._translated("put", key):
            # Below 525 MiB the client sends a single PUT. A multipart upload would leave parts
            # behind after a crash.
            self._client.put_object(self._bucket, key, BytesIO(data), len(data))

    def get(self, key: str) -> bytes:
        check_key(key)
        with self._translated("get", key):
            for _ in range(MAX_TRIES - 1):
                # The pool retries requests, but not a truncated response body.
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
        """Create the bucket and return False if the bucket exists.

        Raises:
            ObjectStoreError: The store does not answer.
        """
        with self._translated("make", self._bucket):
            if self._client.bucket_exists(self._bucket):
                return False
            self._client.make_bucket(self._bucket)
        return True

    def check(self) -> None:
        """Check that the bucket can be listed, written, read back equal and deleted.

        The listing comes first: SeaweedFS creates a missing bucket at the first PUT and would hide
        a misspelt name.

        Raises:
            ObjectRefusedError: The store rejects an operation; the error names the setting.
            ObjectStoreError: The store is unavailable; the settings may be correct.
        """
        key, data = f"{SELF_TEST_PREFIX}{uuid.uuid4().hex}", uuid.uuid4().bytes
        next(self.list(SELF_TEST_PREFIX), None)
        self.put(key, data)
        if self.get(key) != data:
            raise ObjectRefusedError(
                "s3_endpoint: an object read back differs from the object written",
                field="s3_endpoint",
                reason="MISMATCH",
            )
        self.delete(key)
        with suppress(ObjectMissingError):
            self.get(key)
            raise ObjectRefusedError(
                "s3_endpoint: a deleted object is still readable",
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
                        f"reading the body exceeded {self._location.request_seconds:g} s"
                    )
        return b"".join(parts)

    @contextmanager
    def _translated(self, operation: str, name: str) -> Iterator[None]:
        """Translate the client's errors.

        The client's hundred error codes are grouped by the possible remedy.
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
                f"{setting}: {self._location.endpoint} answers {error.code} "
                f"({operation} in bucket {self._bucket})",
                field=setting,
            ) from error
        except CredentialsError as error:
            self._warn(operation, error.cause)
            raise (ObjectRefusedError if error.refused else ObjectStoreError)(
                f"s3_credentials: {error}",
                field="s3_credentials",
                reason="REFUSED" if error.refused else "UNREACHABLE",
            ) from error
        except (MinioException, HTTPError, ParseError) as error:
            cause = type(error.reason if isinstance(error, MaxRetryError) else error).__name__
            self._warn(operation, cause)
            raise ObjectStoreError(
                f"s3_endpoint: {self._location.endpoint} did not answer "
                f"{operation} {name}: {cause}",
                field="s3_endpoint",
                reason="UNREACHABLE",
            ) from error

    def _warn(self, operation: str, cause: str) -> None:
        log.warning("object store call failed", extra=fields(operation=operation, cause=cause))
