"""Client of the Kubernetes API for a pod, with its own token and in its own namespace.

Calls have a timeout and no retries, because the launcher polls anyway.
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
    """A call failed; the text contains the message of the API server.

    Attributes:
        status: HTTP status of the response; 0 without a response.
        temporary: the same call may succeed later.
    """

    def __init__(self, text: str, status: int = 0) -> None:
        super().__init__(text, reason="REFUSED" if status else "UNREACHABLE")
        self.status = status
        self.temporary = status == 0 or status == TOO_MANY or status >= 500


@dataclass(frozen=True)
class KubernetesTarget:
    """Address of the API server, and folder with `token`, `ca.crt` and `namespace`.

    The folder has the format of a projected volume.
    """

    url: str
    account: Path

    @property
    def namespace(self) -> str:
        return (self.account / "namespace").read_text().strip()


class KubernetesApi:
    """Objects of one namespace; all methods raise ApiError if the call fails."""

    def __init__(self, target: KubernetesTarget) -> None:
        self._target = target
        # Plain HTTP is used in tests only.
        secure = target.url.startswith("https:")
        self._context = (
            ssl.create_default_context(cafile=str(target.account / "ca.crt")) if secure else None
        )

    def read(self, kind: str, name: str) -> Manifest | None:
        """Return an object, or None if it does not exist.

        Args:
            kind: group, version and plural, such as `apis/ray.io/v1/rayjobs`.
        """
        try:
            found: Manifest = self._call("GET", self._path(kind, name))
        except ApiError as error:
            if error.status == NOT_FOUND:
                return None
            raise
        return found

    def select(self, kind: str, labels: str) -> list[Manifest]:
        """Return all objects with these labels."""
        return self._list(kind, {"labelSelector": labels})

    def events(self, pod: str) -> list[Manifest]:
        """Return the events of a pod, which Kubernetes stores for an hour."""
        return self._list(
            "api/v1/events", {"fieldSelector": f"involvedObject.kind=Pod,involvedObject.name={pod}"}
        )

    def create(self, kind: str, manifest: Manifest) -> bool:
        """Create an object; return False if the name exists.

        Raises:
            ApiError: the API server does not know a field. By default it would drop the field, such
                as the authentication of a Ray cluster.
        """
        try:
            self._call("POST", f"{self._path(kind)}?fieldValidation=Strict", manifest)
        except ApiError as error:
            if error.status == TAKEN:
                return False
            raise
        return True

    def delete(self, kind: str, name: str, uid: str) -> None:
        """Delete an object with this uid after its dependents (foreground deletion).

        A missing object is not an error.
        """
        options = {"preconditions": {"uid": uid}, "propagationPolicy": "Foreground"}
        try:
            self._call("DELETE", self._path(kind, name), options)
        except ApiError as error:
            if error.status not in (NOT_FOUND, TAKEN):  # TAKEN: another object has the name now
                raise

    def _list(self, kind: str, query: Mapping[str, str]) -> list[Manifest]:
        found: list[Manifest] = self._call("GET", f"{self._path(kind)}?{urlencode(query)}")["items"]
        return found

    def _path(self, kind: str, name: str = "") -> str:
        group, _, plural = kind.rpartition("/")
        return f"/{group}/namespaces/{self._target.namespace}/{plural}" + (
            f"/{quote(name)}" if name else ""
        )

    def _call(self, method: str, path: str, body: Manifest | None = None) -> Any:
        request = Request(  # noqa: S310 - address of the cluster
            self._target.url + path,
            data=None if body is None else json.dumps(body).encode(),
            method=method,
            headers={
                # Read for each call, because the kubelet rotates the token.
                "Authorization": f"Bearer {(self._target.account / 'token').read_text().strip()}",
                "Content-Type": "application/json",
                "Accept": "application/json",
            },
        )
        try:
            with urlopen(request, timeout=CALL_SECONDS, context=self._context) as answer:  # noqa: S310
                return json.load(answer)
        except HTTPError as error:
            with error:
                text = error.read().decode(errors="replace")
            # A proxy in front of the API server may respond without a Status object.
            with suppress(ValueError, KeyError, TypeError):
                text = str(json.loads(text)["message"])
            raise ApiError(
                f"{method} {path}: {error.code}: {text[:MAX_MESSAGE_CHARACTERS]}", error.code
            ) from error
        except (URLError, HTTPException, OSError, ValueError) as error:
            raise ApiError(f"{method} {path}: {error}") from error
