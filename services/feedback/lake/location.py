"""The object store that the settings name: a directory, or a bucket."""

import logging
from typing import TYPE_CHECKING

from services.chassis.telemetry import fields
from services.feedback.lake.object_store import (
    Directory,
    ObjectRefusedError,
    ObjectStore,
    ObjectStoreError,
)
from services.feedback.settings import FeedbackSettings

if TYPE_CHECKING:
    from services.feedback.lake.s3_store import S3Store

log = logging.getLogger(__name__)


def object_store(settings: FeedbackSettings) -> ObjectStore:
    """Nothing is asked of it yet."""
    return bucket(settings) if settings.s3_endpoint else Directory(settings.object_directory)


def bucket(settings: FeedbackSettings) -> "S3Store":
    """Nothing is asked of it yet."""
    # 0.15 s of processor time and 6 MB that an embedded run need not pay.
    from services.feedback.lake.s3_store import S3Location, S3Store

    location = S3Location(
        endpoint=settings.s3_endpoint,
        bucket=settings.s3_bucket,
        region=settings.s3_region,
        secure=settings.s3_secure,
        access_key=settings.s3_access_key,
        secret_key=settings.s3_secret_key.get_secret_value(),
        connect_seconds=settings.s3_connect_seconds,
        request_seconds=settings.s3_request_seconds,
    )
    return S3Store(location)


def verified_store(settings: FeedbackSettings) -> ObjectStore:
    """A store that refuses stops the start. One that is away does not: what is acknowledged waits
    in the spool.
    """
    if not settings.s3_endpoint:
        return object_store(settings)
    store = bucket(settings)
    try:
        store.check()
    except ObjectRefusedError:
        raise
    except ObjectStoreError as error:
        log.warning(
            "object store is away", extra=fields(endpoint=settings.s3_endpoint, error=str(error))
        )
    return store
