"""Read-only access to committed objects in an S3 bucket, configured by TW_TRAINING_S3_*.

The `minio` client is given explicit timeouts and retries. Its own limits are 300 s × 6 attempts,
and up to six hours after a 503 with Retry-After.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field, fields

from minio import Minio
from minio.error import MinioException, S3Error
from urllib3 import PoolManager, Retry, Timeout
from urllib3.exceptions import HTTPError, ProtocolError

from s3_credentials.chain import CredentialsError, credentials_of
from training.data.feedback.catalogue import CatalogueError, ObjectMissingError
from training.errors import ConfigError

PREFIX = "TW_TRAINING_S3_"
CONNECT_SECONDS = 5.0
READ_SECONDS = 30.0
TRIES = 4
BACKOFF_SECONDS = 0.5
MAX_BACKOFF_SECONDS = 10
RETRYABLE_STATUSES = frozenset({429, 500, 502, 503, 504})


@dataclass(frozen=True)
class BucketLocation:
    """Address and credentials of an S3 bucket.

    Attributes:
        endpoint: host:port.
        access_key: empty for the credentials of the environment.
    """

    endpoint: str
    access_key: str = ""
    secret_key: str = field(default="", repr=False)
    bucket: str = "thumbwheel"
    region: str = "us-east-1"
    secure: bool = True


def bucket_location(environment: Mapping[str, str]) -> BucketLocation | None:
    """Return the bucket location from the environment, or None without TW_TRAINING_S3_* variables.

    Variables: TW_TRAINING_S3_ENDPOINT, _ACCESS_KEY, _SECRET_KEY, _BUCKET, _REGION, _SECURE (true or
    false), and _CREDENTIALS: keys, or chain without the two keys.

    Raises:
        ConfigError: a variable is unknown, missing or invalid; `field` names the variable.
    """
    names = [*(found.name for found in fields(BucketLocation)), "credentials"]
    given = {
        name.removeprefix(PREFIX).lower(): value
        for name, value in environment.items()
        if name.startswith(PREFIX)
    }
    if unknown := sorted(given.keys() - set(names)):
        variable, known = f"{PREFIX}{unknown[0].upper()}", ", ".join(names).upper()
        raise ConfigError(
            f"{variable}: is unknown; known: {known}", field=variable, reason="UNKNOWN", limit=known
        )
    if not given:
        return None
    origin = given.pop("credentials", "keys")
    _check_word("CREDENTIALS", origin, "keys", "chain")
    required = names[:3] if origin == "keys" else names[:1]
    if missing := [name for name in required if not given.get(name)]:
        variable = f"{PREFIX}{missing[0].upper()}"
        raise ConfigError(f"{variable}: is missing", field=variable, reason="MISSING")
    if unused := [name for name in names[1:3] if given.get(name) and name not in required]:
        variable = f"{PREFIX}{unused[0].upper()}"
        raise ConfigError(
            f"{variable}: not used with {PREFIX}CREDENTIALS=chain", field=variable, reason="UNUSED"
        )
    secure = given.pop("secure", "true")
    _check_word("SECURE", secure, "true", "false")
    return BucketLocation(**given, secure=secure == "true")


def _check_word(name: str, value: str, *allowed: str) -> None:
    if value not in allowed:
        raise ConfigError(
            f"{PREFIX}{name}: {value!r} is none of {', '.join(allowed)}",
            field=f"{PREFIX}{name}",
            reason="WRONG_TYPE",
            limit=", ".join(allowed),
        )


def connect(location: BucketLocation, tries: int = TRIES) -> Minio:
    """Return a client with bounded timeouts and retries.

    Refused requests are repeated, except POSTs (multipart uploads). A response body that breaks off
    is not repeated. Callers with their own retries pass `tries=1`.
    """
    retries = Retry(
        total=tries - 1,
        redirect=False,
        status_forcelist=RETRYABLE_STATUSES,
        raise_on_status=False,
        backoff_factor=BACKOFF_SECONDS,
        retry_after_max=MAX_BACKOFF_SECONDS,
    )
    return Minio(
        location.endpoint,
        credentials=credentials_of(location.access_key, location.secret_key),
        secure=location.secure,
        region=location.region,
        http_client=PoolManager(
            timeout=Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS), retries=retries
        ),
    )


class Bucket:
    """Object store over one bucket, an implementation of `Objects`."""

    def __init__(self, location: BucketLocation) -> None:
        self._place = location
        self._client = connect(location)

    def get(self, key: str) -> bytes:
        """Return the content of an object, as specified by `Objects.get`."""
        try:
            for _ in range(TRIES - 1):
                # The pool repeats requests, but not a response body that breaks off.
                with suppress(ProtocolError):
                    return self._read(key)
            return self._read(key)
        except S3Error as error:
            if error.code == "NoSuchKey":
                raise ObjectMissingError(
                    f"object_key: {key} is committed but missing", field="object_key"
                ) from error
            raise CatalogueError(self._describe(f"answers {error.code}"), field="bucket") from error
        except (MinioException, HTTPError) as error:
            cause = str(error) if isinstance(error, CredentialsError) else type(error).__name__
            raise CatalogueError(
                self._describe(f"did not give {key}: {cause}"),
                field="bucket",
                reason="UNREACHABLE",
            ) from error

    def _read(self, key: str) -> bytes:
        with closing(self._client.get_object(self._place.bucket, key)) as response:
            return bytes(response.read())

    def _describe(self, what: str) -> str:
        return f"bucket {self._place.bucket}: {self._place.endpoint} {what}"
