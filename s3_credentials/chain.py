"""Temporary credentials of the environment, in the order of the AWS SDKs.

The providers of `minio` fetch them. Their errors and the warnings of urllib3 contain the URL of the
request, and with it the token of a web identity, so neither is passed on or enabled here.
"""

import logging
import os
import re
import threading
import time
from collections.abc import Callable
from datetime import UTC
from enum import StrEnum
from xml.etree.ElementTree import ParseError

from minio.credentials.credentials import Credentials
from minio.credentials.providers import (
    EnvAWSProvider,
    IamAwsProvider,
    Provider,
    StaticProvider,
)
from minio.error import MinioException
from urllib3 import PoolManager, Timeout
from urllib3.exceptions import HTTPError

log = logging.getLogger(__name__)

# New credentials are fetched this long before the present ones expire, or after half of a shorter
# lifetime. AWS issues them for at least 15 minutes.
REFRESH_SECONDS = 300.0
# Pause after a failed refresh, during which the present credentials serve.
RETRY_SECONDS = 15.0
TRIES = 3
TIMEOUT = Timeout(connect=3.0, read=10.0)
STATUS = re.compile(r"HTTP status code (\d{3})")


class Source(StrEnum):
    """Origin of the credentials, the first one that the environment names."""

    ENVIRONMENT = "environment"
    WEB_IDENTITY = "web identity"
    CONTAINER = "container"
    INSTANCE = "instance metadata"


class CredentialsError(MinioException):
    """No credentials, without the request's URL or an answer's text.

    Attributes:
        source: origin that was asked.
        cause: HTTP status or class of the error.
        refused: the origin answered that it gives none; repeating is pointless.
    """

    def __init__(self, source: Source, cause: str, refused: bool) -> None:
        super().__init__(f"no credentials by {source}: {cause}")
        self.source, self.cause, self.refused = source, cause, refused


def source_of_environment() -> Source:
    """Return the origin that the variables of the AWS SDKs select."""
    names = os.environ
    if names.get("AWS_ACCESS_KEY_ID"):
        return Source.ENVIRONMENT
    if names.get("AWS_WEB_IDENTITY_TOKEN_FILE"):
        return Source.WEB_IDENTITY
    if names.get("AWS_CONTAINER_CREDENTIALS_FULL_URI") or names.get(
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"
    ):
        return Source.CONTAINER
    return Source.INSTANCE


class CredentialChain(Provider):
    """Credentials that are fetched when needed and before they expire; thread-safe.

    Variables: AWS_ACCESS_KEY_ID with AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN;
    AWS_WEB_IDENTITY_TOKEN_FILE with AWS_ROLE_ARN, AWS_REGION and AWS_ENDPOINT_URL_STS;
    AWS_CONTAINER_CREDENTIALS_FULL_URI with AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE;
    AWS_EC2_METADATA_SERVICE_ENDPOINT.

    Args:
        now: time in seconds since 1970.
        sleep: pause between two tries, in seconds.
    """

    def __init__(
        self,
        now: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._now, self._sleep = now, sleep
        self._http = PoolManager(timeout=TIMEOUT, retries=False)
        self._lock = threading.Lock()
        self._held: Credentials | None = None
        self._refresh_at = self._expires_at = 0.0

    def retrieve(self) -> Credentials:
        """Return credentials, new ones if the present ones expire soon.

        Raises:
            CredentialsError: there are none; the call may be repeated.
        """
        with self._lock:
            if self._held is None or self._now() >= self._refresh_at:
                try:
                    self._hold(self._fetched())
                except CredentialsError as error:
                    if self._held is None or self._now() >= self._expires_at:
                        raise
                    self._refresh_at = min(self._now() + RETRY_SECONDS, self._expires_at)
                    log.warning(
                        "credentials of the object store were not renewed",
                        extra={"fields": {"source": error.source, "cause": error.cause}},
                    )
            assert self._held is not None
            return self._held

    def _hold(self, new: Credentials) -> None:
        self._held = new
        self._expires_at = self._refresh_at = float("inf")
        if new.expiration:
            # minio returns a time in UTC without a zone.
            self._expires_at = new.expiration.replace(tzinfo=UTC).timestamp()
            left = self._expires_at - self._now()
            self._refresh_at = self._expires_at - min(REFRESH_SECONDS, left / 2)

    def _fetched(self) -> Credentials:
        source = source_of_environment()
        for tried in range(1, TRIES + 1):
            try:
                # A provider keeps its credentials until they expire, so each call has its own.
                return self._provider(source).retrieve()
            # A broken answer is a KeyError, a TypeError or a ParseError.
            except (ValueError, KeyError, TypeError, OSError, HTTPError, ParseError) as error:
                found = STATUS.search(str(error))
                status = found[1] if found else ""
                refused = status.startswith("4") and status != "429"
                cause = f"HTTP status {status}" if status else type(error).__name__
                if refused or tried == TRIES:
                    # Without a cause: its text contains the URL.
                    raise CredentialsError(source, cause, refused) from None
            self._sleep(0.2 * tried)
        raise AssertionError("unreachable")

    def _provider(self, source: Source) -> Provider:
        if source is Source.ENVIRONMENT:
            return EnvAWSProvider()
        endpoints = {
            Source.WEB_IDENTITY: "AWS_ENDPOINT_URL_STS",
            Source.INSTANCE: "AWS_EC2_METADATA_SERVICE_ENDPOINT",
        }
        endpoint = os.environ.get(endpoints.get(source, "")) or None
        return IamAwsProvider(custom_endpoint=endpoint, http_client=self._http)


def credentials_of(access_key: str, secret_key: str) -> Provider:
    """Return a pair of keys as a provider; without an access key, the credential chain."""
    return StaticProvider(access_key, secret_key) if access_key else CredentialChain()
