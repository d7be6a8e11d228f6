"""Committed objects in an S3 bucket, read only, by the `minio` client. TW_TRAINING_S3_* says where
it is.

The client's own limits are 300 s × 6 tries, and up to six hours where a 503 says Retry-After.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field, fields

from minio import Minio
from minio.error import MinioException, S3Error
from urllib3 import PoolManager, Retry, Timeout
from urllib3.exceptions import HTTPError, ProtocolError

from training.data.catalogue import CatalogueError, ObjectMissingError
from training.errors import ConfigError

PREFIX = "TW_TRAINING_S3_"
CONNECT_SECONDS = 5.0
READ_SECONDS = 30.0
TRIES = 4
BACKOFF_SECONDS = 0.5
MOST_PAUSE_SECONDS = 10
PASSING_STATUSES = frozenset({429, 500, 502, 503, 504})


@dataclass(frozen=True)
class BucketPlace:
    """Where the objects are, and who asks. `endpoint` is host:port."""

    endpoint: str
    access_key: str
    secret_key: str = field(repr=False)
    bucket: str = "thumbwheel"
    region: str = "us-east-1"
    secure: bool = True


def bucket_place(environment: Mapping[str, str]) -> BucketPlace | None:
    """As TW_TRAINING_S3_ENDPOINT, _ACCESS_KEY, _SECRET_KEY, _BUCKET, _REGION and _SECURE (true or
    false) say.

    None: none of them is set. Raises ConfigError that names the variable that is unknown, missing
        or wrong.
    """
    names = [found.name for found in fields(BucketPlace)]
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
    if missing := [name for name in names[:3] if not given.get(name)]:
        variable = f"{PREFIX}{missing[0].upper()}"
        raise ConfigError(f"{variable}: is missing", field=variable, reason="MISSING")
    secure = given.pop("secure", "true")
    if secure not in ("true", "false"):
        raise ConfigError(
            f"{PREFIX}SECURE: {secure!r} is neither true nor false",
            field=f"{PREFIX}SECURE",
            reason="WRONG_TYPE",
            limit="true, false",
        )
    return BucketPlace(**given, secure=secure == "true")


def connect(place: BucketPlace, tries: int = TRIES) -> Minio:
    """A client whose patience ends. It repeats requests that were refused for a moment, but no POST
    (of an upload in parts), and no body that breaks off; who must repeat those as well asks for one
    try here.
    """
    retries = Retry(
        total=tries - 1,
        redirect=False,
        status_forcelist=PASSING_STATUSES,
        raise_on_status=False,
        backoff_factor=BACKOFF_SECONDS,
        retry_after_max=MOST_PAUSE_SECONDS,
    )
    return Minio(
        place.endpoint,
        access_key=place.access_key,
        secret_key=place.secret_key,
        secure=place.secure,
        region=place.region,
        http_client=PoolManager(
            timeout=Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS), retries=retries
        ),
    )


class Bucket:
    """The objects of one bucket."""

    def __init__(self, place: BucketPlace) -> None:
        self._place = place
        self._client = connect(place)

    def get(self, key: str) -> bytes:
        try:
            for _ in range(TRIES - 1):
                # The pool repeats requests, but not a body that breaks off.
                with suppress(ProtocolError):
                    return self._read(key)
            return self._read(key)
        except S3Error as error:
            if error.code == "NoSuchKey":
                raise ObjectMissingError(
                    f"object_key: {key} is committed but missing", field="object_key"
                ) from error
            raise CatalogueError(self._blame(f"answers {error.code}"), field="bucket") from error
        except (MinioException, HTTPError) as error:
            raise CatalogueError(
                self._blame(f"did not give {key}: {type(error).__name__}"),
                field="bucket",
                reason="UNREACHABLE",
            ) from error

    def _read(self, key: str) -> bytes:
        with closing(self._client.get_object(self._place.bucket, key)) as response:
            return bytes(response.read())

    def _blame(self, what: str) -> str:
        return f"bucket {self._place.bucket}: {self._place.endpoint} {what}"
