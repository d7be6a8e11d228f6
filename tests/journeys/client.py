"""A small client of the public HTTP API, as used by the page."""

import json
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

SECONDS = 60


@dataclass(frozen=True)
class Client:
    """Client of one user.

    Args:
        seconds: longest wait for a response or for its next event.
    """

    url: str
    key: str
    traceparent: str = ""
    seconds: float = SECONDS

    def call(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """Return status and JSON, including errors."""
        try:
            with self._open(method, path, body) as response:
                return response.status, json.loads(response.read() or b"{}")
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())

    def events(self, method: str, path: str, body: object = None) -> Iterator[dict[str, Any]]:
        """Yield the events of a turn. An error event raises."""
        with self._open(method, path, body) as response:
            kind = "message"
            for line in response:
                if line.startswith(b"event:"):
                    kind = line[6:].strip().decode()
                if line.startswith(b"data:"):
                    assert kind != "error", line
                    yield json.loads(line[5:])
                if line == b"\n":
                    kind = "message"

    def ask(self, text: str, **more: object) -> list[dict[str, Any]]:
        """Run a complete turn."""
        body = {"input": {"text": text}, "requestId": str(uuid.uuid4()), **more}
        return list(self.events("POST", "/api/messages", body))

    def thumb(self, message_id: str, up: bool) -> str:
        """Send a thumb. Returns the event id once durable."""
        body = {"messageId": message_id, "requestId": str(uuid.uuid4()), "thumb": {"up": up}}
        status, answer = self.call("POST", "/api/feedback", body)
        assert status == 200, answer
        return str(answer["eventId"])

    def conversation(self, conversation_id: str) -> list[dict[str, Any]]:
        """Return all messages of a conversation, oldest first, page by page."""
        path, token, found = f"/api/conversations/{conversation_id}?page_token=", "", []
        while True:
            status, answer = self.call("GET", path + token)
            assert status == 200, answer
            found = [*answer.get("messages", []), *found]
            if not (token := answer.get("nextPageToken", "")):
                return list(found)

    def _open(self, method: str, path: str, body: object) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"authorization": f"Bearer {self.key}", "content-type": "application/json"}
        if self.traceparent:
            headers["traceparent"] = self.traceparent
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        return urllib.request.urlopen(request, timeout=self.seconds)


def text_of(events: list[dict[str, Any]]) -> str:
    return "".join(event["textDelta"]["text"] for event in events if "textDelta" in event)


def finish_of(events: list[dict[str, Any]]) -> str:
    return str(events[-1]["completed"]["finishReason"])
