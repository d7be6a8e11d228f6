"""HTTP connection to a model server, with retries and errors that name their cause."""

from __future__ import annotations

import json
from typing import Any

import urllib3
from urllib3.exceptions import HTTPError, MaxRetryError, NewConnectionError
from urllib3.exceptions import TimeoutError as RequestTimeoutError
from urllib3.util import Retry

from training.errors import ConfigError, UnavailableError

# A restart of a model server behind a load balancer takes seconds; all requests are idempotent.
ATTEMPTS, BACKOFF_SECONDS = 4, 0.5
CONNECT_SECONDS, READ_SECONDS = 10.0, 600.0
MAX_ERROR_CHARACTERS = 300

Json = dict[str, Any]


class EndpointError(UnavailableError):
    """The model server is unreachable, stopped answering, or lacks a needed path."""

    reason = "ENDPOINT_UNAVAILABLE"


class ResponseError(EndpointError):
    """The model server answers, and its answer cannot be used; a restart would not help."""

    reason = "UNUSABLE_RESPONSE"


class RefusedError(ConfigError):
    """The model server refused a request; `field` is the parameter that it names."""

    reason = "REFUSED_BY_ENDPOINT"


class Connection:
    """Connections to one server. Its methods may be called from several threads.

    Args:
        key: sent as `Authorization: Bearer KEY`; "" sends none.
        concurrency: requests at once.
        read_seconds: longest wait for a response.
    """

    def __init__(self, base_url: str, key: str, concurrency: int, read_seconds: float) -> None:
        self._base_url = base_url
        headers = {"Content-Type": "application/json"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        retries = Retry(
            total=ATTEMPTS,
            status_forcelist=(429, 502, 503, 504),
            allowed_methods=None,
            backoff_factor=BACKOFF_SECONDS,
            raise_on_status=False,
        )
        self._pool = urllib3.PoolManager(
            maxsize=concurrency,
            headers=headers,
            retries=retries,
            timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=read_seconds),
        )

    def close(self) -> None:
        """Close all open connections."""
        self._pool.clear()

    def command(self, path: str, body: Json | None = None) -> None:
        """Post a command of the server's administration, whose response has no content of use.

        Raises:
            EndpointError: the server does not answer, or the command failed; the text has the
                server's reason.
            RefusedError: the server refused the command.
        """
        status, content = self._exchange("POST", path, json.dumps(body or {}).encode())
        if status != 200:
            raise self._error(path, status, content)

    def get(self, path: str) -> Json:
        """Return the JSON object of a path; raises as `post`."""
        return self._request("GET", path, None)

    def post(self, path: str, body: Json) -> Json:
        """Return the JSON object that the server responds to a body.

        Raises:
            EndpointError: the server does not answer, or responds without an object.
            RefusedError: the server refused a parameter.
        """
        return self._request("POST", path, json.dumps(body).encode())

    def _request(self, method: str, path: str, body: bytes | None) -> Json:
        status, content = self._exchange(method, path, body)
        if status == 200 and content:
            return content
        raise self._error(path, status, content)

    def _exchange(self, method: str, path: str, body: bytes | None) -> tuple[int, Json]:
        """Return status and JSON object of a response; {} for other content."""
        try:
            response = self._pool.request(method, self._base_url + path, body=body)
            content = json.loads(response.data) if response.data else {}
        except HTTPError as error:
            cause = error.reason if isinstance(error, MaxRetryError) else error
            text = "no answer in time" if isinstance(cause, RequestTimeoutError) else "interrupted"
            if isinstance(cause, NewConnectionError):  # a subclass of the timeout in urllib3
                text = "no connection"
            raise EndpointError(
                f"{self._base_url}: the model server does not answer ({text})",
                field="endpoint",
                limit=f"{ATTEMPTS + 1} attempts",
            ) from error
        except ValueError:
            content = {}
        return response.status, content if isinstance(content, dict) else {}

    def _error(self, path: str, status: int, content: Json) -> EndpointError | RefusedError:
        found = content.get("error")
        told = found if isinstance(found, dict) else {"message": found or ""}
        text = str(told.get("message", ""))[:MAX_ERROR_CHARACTERS]
        message = f"{self._base_url}{path}: HTTP {status} {text}".rstrip()
        if status in (400, 413, 422):
            return RefusedError(message, field=str(told.get("param") or "prompt"))
        if status in (401, 403):
            return EndpointError(message, field="key", reason="UNAUTHENTICATED")
        reason = "NOT_FOUND" if status in (404, 405) else ""
        return EndpointError(message, field="endpoint", reason=reason)
