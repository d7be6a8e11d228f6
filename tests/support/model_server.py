"""An OpenAI-compatible model server on loopback with known log-probs, for tests of its clients.

Its tokens are the bytes of a text, so that every expected figure can be computed by hand.
"""

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar

KEY = "a-key-for-tests-only"
Score = Callable[[str, int], float]
"""Natural log-prob of the byte at a position of a text."""


@dataclass
class FakeModelServer:
    """State of the server.

    Attributes:
        log_prob: log-prob of the byte at a position of a text.
        answer: text generated for a prompt.
        window: limit of prompt bytes.
        fail_after: number of requests that are answered; later ones get a 500; None answers all.
        model: name of the model.
        requests: path and body of all requests.
        paths_missing: paths that are answered with 404.
    """

    log_prob: Score = lambda text, position: -1.0
    answer: Callable[[str], str] = lambda prompt: " answer"
    window: int = 100_000
    fail_after: int | None = None
    model: str = "fake-1"
    url: str = ""
    requests: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    paths_missing: set[str] = field(default_factory=set)

    def respond(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Return status and body of a response."""
        self.requests.append((path, body))
        if self.fail_after is not None and len(self.requests) > self.fail_after:
            return 500, {"error": {"message": "internal error"}}
        if path in self.paths_missing:
            return 404, {"error": {"message": "Not Found"}}
        if path == "/v1/models":
            return 200, {"data": [{"id": self.model, "max_model_len": self.window}]}
        if path == "/tokenizer_info":
            return 200, {"eos_token": "\0", "bos_token": None}
        if path == "/tokenize":
            return 200, {"tokens": list(body["prompt"].encode())}
        if path == "/detokenize":
            return 200, {"prompt": bytes(body["tokens"]).decode(errors="replace")}
        if path == "/v1/completions":
            return self._complete(body)
        if path == "/v1/chat/completions":
            message = {"role": "assistant", "content": self.answer(body["messages"][-1]["content"])}
            choice = {"message": message, "finish_reason": "stop"}
            return 200, {"choices": [choice], "usage": {"completion_tokens": 1}}
        return 404, {"error": {"message": "Not Found"}}

    def _complete(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        given = body["prompt"]
        several = isinstance(given, list) and any(isinstance(prompt, list) for prompt in given)
        choices: list[dict[str, Any]] = []
        for index, prompt in enumerate(given if several else [given]):
            if len(prompt) > self.window:
                text = f"prompt has {len(prompt)} tokens; the limit is {self.window}"
                return 400, {"error": {"message": text, "param": "prompt"}}
            choices.append({"index": index, **self._choice(prompt, body)})
        tokens = sum(len(choice["text"]) for choice in choices)
        return 200, {"choices": choices, "usage": {"completion_tokens": tokens}}

    def _choice(self, given: str | list[int], body: dict[str, Any]) -> dict[str, Any]:
        prompt = given if isinstance(given, str) else bytes(given).decode(errors="replace")
        if body.get("echo"):
            values = [self.log_prob(prompt, position) for position in range(1, len(given))]
            scores = {
                "token_logprobs": [None, *values],
                # Above the limit of -1, another token would be likelier.
                "top_logprobs": [None, *({"a": value, "b": -1.0} for value in values)],
            }
            return {"text": prompt, "logprobs": scores}
        text = self.answer(prompt)
        for stop in body.get("stop", []):
            text = text.split(stop)[0]
        return {"text": text, "finish_reason": "stop"}


Served = TypeVar("Served", bound="FakeModelServer")


@contextmanager
def fake_model_server(**attributes: Any) -> Iterator[FakeModelServer]:
    """Run a server with these attributes in the block."""
    with running(FakeModelServer(**attributes)) as state:
        yield state


@contextmanager
def running(state: Served) -> Iterator[Served]:
    """Run a server with this state in the block."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._send({})

        def do_POST(self) -> None:
            self._send(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def _send(self, body: dict[str, Any]) -> None:
            if self.headers.get("Authorization") != f"Bearer {KEY}":
                status, content = 401, {"error": {"message": "the key is missing or wrong"}}
            else:
                status, content = state.respond(self.path, body)
            raw = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, format: str, *args: Sequence[object]) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
