"""The API server as a pod speaks to it: its own token, its own namespace, and only what a launcher
needs.

A call has a time limit and no tries of its own: whoever waits for a turn asks again anyway.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode
from urllib.request import Request, urlopen

from training.errors import DetailedError

CALL_SECONDS = 15.0
NOT_FOUND, TAKEN, TOO_MANY = 404, 409, 429
MAX_MESSAGE_CHARACTERS = 500

Manifest = Mapping[str, Any]


class ApiError(DetailedError, RuntimeError):
    """A call failed; the text says what the API server said. `passing`: the same call may succeed
    later.
    """

    reason = "UNREACHABLE"

    def __init__(self, text: str, *, passing: bool) -> None:
        super().__init__(text)
        self.passing = passing


@dataclass(frozen=True)
class Place:
    """Where the API server is and who calls: a folder with `token`, `ca.crt` and `namespace`, as a
    projected volume holds them.
    """

    url: str
    account: Path

    @property
    def namespace(self) -> str:
        return (self.account / "namespace").read_text().strip()


class KubernetesApi:
    """Objects of one namespace."""

    def __init__(self, place: Place) -> None:
        self._place = place
        # Over plain HTTP only in tests.
        secure = place.url.startswith("https:")
        self._context = (
            ssl.create_default_context(cafile=str(place.account / "ca.crt")) if secure else None
        )

    def read(self, kind: str, name: str) -> Manifest | None:
        """An object; None: it is not there. `kind` is its group, version and plural, as
        `apis/ray.io/v1/rayjobs`.

        Raises:
            ApiError: it could not be read.
        """
        try:
            found: Manifest = self._call("GET", self._path(kind, name))
        except _StatusError as error:
            if error.status == NOT_FOUND:
                return None
            raise
        return found

    def select(self, kind: str, labels: str) -> list[Manifest]:
        """All objects with these labels. Raises: ApiError."""
        return self._list(kind, {"labelSelector": labels})

    def events(self, pod: str) -> list[Manifest]:
        """What the node has noted of a pod in the last hour. Raises: ApiError."""
        return self._list(
            "api/v1/events", {"fieldSelector": f"involvedObject.kind=Pod,involvedObject.name={pod}"}
        )

    def create(self, kind: str, manifest: Manifest) -> bool:
        """Whether it was made; False: there is one with its name. Raises: ApiError."""
        try:
            self._call("POST", self._path(kind), manifest)
        except _StatusError as error:
            if error.status == TAKEN:
                return False
            raise
        return True

    def delete(self, kind: str, name: str, uid: str) -> None:
        """Delete this very one, and not before all that it made is gone. That it is gone already is
        no error. Raises: ApiError.
        """
        options = {"preconditions": {"uid": uid}, "propagationPolicy": "Foreground"}
        try:
            self._call("DELETE", self._path(kind, name), options)
        except _StatusError as error:
            if error.status not in (NOT_FOUND, TAKEN):  # TAKEN: another one has the name by now
                raise

    def _list(self, kind: str, query: Mapping[str, str]) -> list[Manifest]:
        found: list[Manifest] = self._call("GET", f"{self._path(kind)}?{urlencode(query)}")["items"]
        return found

    def _path(self, kind: str, name: str = "") -> str:
        group, _, plural = kind.rpartition("/")
        return f"/{group}/namespaces/{self._place.namespace}/{plural}" + (
            f"/{quote(name)}" if name else ""
        )

    def _call(self, method: str, path: str, body: Manifest | None = None) -> Any:
        request = Request(  # noqa: S310 - the address is the cluster's own
            self._place.url + path,
            data=None if body is None else json.dumps(body).encode(),
            method=method,
            headers={
                # Read anew each time: the kubelet replaces it before it ends.
                "Authorization": f"Bearer {(self._place.account / 'token').read_text().strip()}",
                "Content-Type": "application/json",
                "Accept": "application/json",
            },
        )
        try:
            with urlopen(request, timeout=CALL_SECONDS, context=self._context) as answer:  # noqa: S310 - the same
                return json.load(answer)
        except HTTPError as error:
            raise _StatusError(
                error.code, f"{method} {path}: {error.code}: {_message(error)}"
            ) from error
        except (URLError, HTTPException, OSError, ValueError) as error:
            raise ApiError(f"{method} {path}: {error}", passing=True) from error


class _StatusError(ApiError):
    reason = "REFUSED"

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text, passing=status >= 500 or status == TOO_MANY)
        self.status = status


def _message(error: HTTPError) -> str:
    """What the API server says of it, without the rest of its answer."""
    with error:
        text = error.read().decode(errors="replace")
    with suppress(ValueError, KeyError, TypeError):
        text = str(json.loads(text)["message"])
    return text[:MAX_MESSAGE_CHARACTERS]
