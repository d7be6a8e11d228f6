"""A server on loopback that issues temporary S3 credentials as AWS does, and checks their use."""

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

ROLE = "arn:aws:iam::123456789012:role/chat"
SESSION, CONTAINER_TOKEN = "instance-session", "pod-identity-token"
INSTANCE_PATH = "/latest/meta-data/iam/security-credentials/"


class CredentialsServer:
    """State of the server.

    Attributes:
        lifetime_seconds: validity of new credentials.
        identity: content of the web identity token that is accepted.
        statuses: HTTP statuses of the next answers, before the usual ones.
        issued: expiry by session token, in seconds since 1970.
        requests: answered requests by kind.
        clock: seconds added to the present time.
    """

    def __init__(self, identity: str = "first.web.identity") -> None:
        self.identity, self.lifetime_seconds, self.clock = identity, 900.0, 0.0
        self.statuses: list[int] = []
        self.issued: dict[str, float] = {}
        self.requests = Counter[str]()

    def now(self) -> float:
        """Return the time of this server in seconds since 1970."""
        return time.time() + self.clock

    def authorize(self, headers: Message) -> str | None:
        """Return the error code of S3 for the credentials of a request, or None."""
        expiry = self.issued.get(headers.get("x-amz-security-token", ""))
        if expiry is None or "Credential=temporary/" not in headers.get("Authorization", ""):
            return "InvalidAccessKeyId"
        return "ExpiredToken" if self.now() >= expiry else None

    def answer(self, method: str, target: str, headers: Message) -> tuple[int, str]:
        """Return status and body of a request."""
        url = urlsplit(target)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        kind = query.get("Action", url.path)
        self.requests[kind] += 1
        if self.statuses:
            return self.statuses.pop(0), "<Error>a text of the server</Error>"
        if kind == "AssumeRoleWithWebIdentity":
            right = (query["WebIdentityToken"], query.get("RoleArn")) == (self.identity, ROLE)
            return (200, self._xml()) if method == "POST" and right else (403, "")
        if kind == "/latest/api/token":
            return (200, SESSION) if method == "PUT" else (405, "")
        if kind.startswith(INSTANCE_PATH):
            if headers.get("X-aws-ec2-metadata-token") != SESSION:
                return 401, ""
            return 200, "role-of-the-node" if kind == INSTANCE_PATH else self._json()
        if kind == "/v1/credentials":
            right = headers.get("Authorization") == CONTAINER_TOKEN
            return (200, self._json()) if right else (401, "")
        return 404, ""

    def _issue(self) -> dict[str, str]:
        token, expiry = f"session-{len(self.issued)}", self.now() + self.lifetime_seconds
        self.issued[token] = expiry
        return {
            "AccessKeyId": "temporary",
            "SecretAccessKey": "a temporary secret",
            "SessionToken": token,
            "Expiration": datetime.fromtimestamp(expiry, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        }

    def _xml(self) -> str:
        fields = "".join(f"<{name}>{value}</{name}>" for name, value in self._issue().items())
        action = "AssumeRoleWithWebIdentity"
        return (
            f'<{action}Response xmlns="https://sts.amazonaws.com/doc/2011-06-15/">'
            f"<{action}Result><Credentials>{fields}</Credentials></{action}Result>"
            f"</{action}Response>"
        )

    def _json(self) -> str:
        new = self._issue()
        return json.dumps({"Code": "Success", "Token": new.pop("SessionToken")} | new)


@contextmanager
def issuing(server: CredentialsServer) -> Iterator[str]:
    """Serve on loopback and yield the URL."""

    class Connection(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            status, text = server.answer(self.command, self.path, self.headers)
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        do_GET = do_PUT = do_POST = _serve

        def log_message(self, *_arguments: object) -> None:
            pass

    class Listener(ThreadingHTTPServer):
        daemon_threads = True

    with Listener(("127.0.0.1", 0), Connection) as listener:
        threading.Thread(target=listener.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{listener.server_address[1]}"
        listener.shutdown()


@contextmanager
def web_identity(server: CredentialsServer, folder: Path) -> Iterator[None]:
    """Serve, and set the variables that a cluster sets in pods with a role."""
    (folder / "token").write_text(server.identity)
    with issuing(server) as url, pytest.MonkeyPatch.context() as patch:
        patch.delenv("AWS_ACCESS_KEY_ID", raising=False)
        patch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(folder / "token"))
        patch.setenv("AWS_ROLE_ARN", ROLE)
        patch.setenv("AWS_ENDPOINT_URL_STS", url)
        yield
