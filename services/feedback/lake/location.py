"""Object store chosen by the settings: a directory or an S3 bucket."""

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
    """Return the configured object store without contacting the store."""
    return bucket(settings) if settings.s3_endpoint else Directory(settings.object_directory)


def bucket(settings: FeedbackSettings) -> "S3Store":
    """Return the configured S3 store without contacting the store."""
    # The import takes 0.15 s of processor time and 6 MB, unnecessary for an embedded run.
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
    """Return the configured object store after a check.

    A store that rejects the check stops the start. An unavailable store does not, since
    acknowledged events wait in the spool.

    Raises:
        ObjectRefusedError: The store rejects the check; the error names the setting.
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
            "object store is unavailable",
            extra=fields(endpoint=settings.s3_endpoint, error=str(error)),
        )
    return store
