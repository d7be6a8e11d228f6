"""A program with vLLM's command line and paths, started in place of vLLM's interpreter.

The file fake.json of the model directory sets the behaviour: `fails` is an error that ends the
process at its start, and `waits` the seconds before it listens. A completion of more than 100
tokens has no end. The program writes its process id and that of an engine, which ignores SIGTERM,
to started.jsonl, with its arguments and the names of its variables. It uses the standard library
only, because it starts many times.
"""

import json
import os
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ENGINE = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
TOKEN_SECONDS = 0.02
MODULE = "vllm.entrypoints.openai.api_server"


class Fake(BaseHTTPRequestHandler):
    """One request to the fake vLLM."""

    protocol_version = "HTTP/1.1"
    name = ""
    running = 0

    def do_GET(self) -> None:
        if self.path == "/metrics":
            self._send(
                200,
                f"# TYPE vllm:num_requests_running gauge\n"
                f'vllm:num_requests_running{{model_name="{self.name}"}} {Fake.running}\n'
                f"# TYPE vllm:prompt_tokens counter\n"
                f'vllm:prompt_tokens_total{{model_name="{self.name}"}} 7\n'
                f"# TYPE process_cpu_seconds counter\nprocess_cpu_seconds_total 1\n",
            )
        elif self.path == "/v1/models":
            self._send(200, {"data": [{"id": self.name, "object": "model", "max_model_len": 64}]})
        else:
            self._send(200, {})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        given = self.headers.get("Authorization")
        if self.path.startswith("/v1/") and given != f"Bearer {os.environ['VLLM_API_KEY']}":
            self._send(401, {"error": "Unauthorized"})
        elif self.path == "/tokenize":
            self._send(200, {"tokens": [ord(letter) for letter in body["prompt"]]})
        elif self.path == "/v1/chat/completions":
            self._stream(body)
        elif body.get("max_tokens") == 0:
            self._send(400, {"error": {"message": "at least 1", "param": "max_tokens"}})
        elif body.get("max_tokens", 1) > 100:
            Fake.running += 1
            self.connection.recv(1)  # until the caller closes the connection
            Fake.running -= 1
            self.close_connection = True
        else:
            self._send(200, {"model": body["model"]})

    def _stream(self, body: dict[str, Any]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        Fake.running += 1
        try:
            for number in range(body["max_tokens"]):
                last = number + 1 == body["max_tokens"]
                choice = {
                    "delta": {"content": f"{number} "},
                    "finish_reason": "stop" * last or None,
                }
                event = json.dumps({"model": self.name, "choices": [choice]})
                self._chunk(f"data: {event}\n\n")
                time.sleep(TOKEN_SECONDS)
            self._chunk("data: [DONE]\n\n")
            self._chunk("")
        except OSError:
            pass  # The caller has closed the connection.
        finally:
            Fake.running -= 1
            self.close_connection = True

    def _chunk(self, text: str) -> None:
        self.wfile.write(f"{len(text):x}\r\n{text}\r\n".encode())

    def _send(self, status: int, content: object) -> None:
        text = content if isinstance(content, str) else json.dumps(content)
        self.send_response(status)
        self.send_header("Content-Type", "text/plain" if text is content else "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        """Suppress the log of requests."""


def write_interpreter(folder: Path) -> Path:
    """Write an interpreter that runs this program, and return it."""
    python = folder / "bin" / "python"
    python.parent.mkdir(parents=True)
    # Without the site packages, whose imports take longer than the program.
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S {__file__} "$@"\n')
    python.chmod(0o755)
    return python


def write_model(directory: Path, **behaviour: str | int) -> Path:
    """Write a model directory with the behaviour of the fake."""
    directory.mkdir(exist_ok=True)
    (directory / "manifest.json").write_text(json.dumps({"version": directory.name}))
    (directory / "fake.json").write_text(json.dumps(behaviour))
    return directory


def started(directory: Path) -> list[dict[str, Any]]:
    """Return the starts with a model directory, the oldest first."""
    file = directory / "started.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def main(words: list[str]) -> None:
    assert words[:2] == ["-m", MODULE]
    options = dict(word.removeprefix("--").partition("=")[::2] for word in words[2:])
    model = Path(options["model"])
    behaviour = json.loads((model / "fake.json").read_text())
    if fails := behaviour.get("fails"):
        print("INFO starting", fails, "RuntimeError: the engine ended", sep="\n", flush=True)
        sys.exit(1)
    engine = subprocess.Popen([sys.executable, "-I", "-S", "-c", ENGINE])
    start = {"pids": [os.getpid(), engine.pid], "options": options, "variables": [*os.environ]}
    with (model / "started.jsonl").open("a") as file:
        file.write(json.dumps(start) + "\n")
    time.sleep(behaviour.get("waits", 0))
    Fake.name = options["served-model-name"]
    ThreadingHTTPServer((options["host"], int(options["port"])), Fake).serve_forever()


if __name__ == "__main__":
    main(sys.argv[1:])
