"""CPU model server for a model directory, as a child of this process."""

from __future__ import annotations

import json
import re
import secrets
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from training.errors import ConfigError
from training.serving.child import child
from training.serving.endpoint import Endpoint

READY_SECONDS = 600.0
EXACT = {"PRECISION": "f32", "WEIGHTS": "f32"}


@contextmanager
def serving(
    model_directory: Path, settings: Mapping[str, str] = EXACT, key: str = ""
) -> Iterator[Endpoint]:
    """Start the CPU model server for a model directory and stop it at the end of the block.

    Args:
        settings: settings of the server by name without TW_PREDICTOR_. By default weights and
            arithmetic are float32, so that scores are those of the checkpoint on any processor.
        key: key of the server; "" draws one.

    Raises:
        ConfigError: the directory has no manifest.
        EndpointError: the server does not start; the text has the server's reason.
    """
    try:
        manifest = json.loads((model_directory / "manifest.json").read_bytes())
        version = str(manifest["version"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"model: {model_directory} is not a model directory with a manifest.json; "
            "`thumbwheel models fetch` makes one",
            field="model",
            reason="NOT_A_MODEL",
            limit="a directory with manifest.json",
        ) from error
    print(f"starting the model server for {version}", file=sys.stderr, flush=True)
    key = key or secrets.token_hex(16)
    with tempfile.TemporaryDirectory(prefix="thumbwheel-model-server-") as folder:
        log, failure = Path(folder, "log"), Path(folder, "failure")
        own = {
            "PORT": "0",
            "METRICS_PORT": "0",
            "MODEL_SERVER_KEY": key,
            "CACHE_DIRECTORY": folder,
            "STARTUP_MODELS": json.dumps([str(model_directory.absolute())]),
            "FAILURE_FILE": str(failure),
            "LOG_FORMAT": "text",
            **settings,
        }
        environment = {f"TW_PREDICTOR_{name}": value for name, value in own.items()}

        def url() -> str | None:
            listening = re.search(r"listening .*port=(\d+)", log.read_text(errors="replace"))
            return f"http://127.0.0.1:{listening[1]}" if listening else None

        def reason() -> str:
            return failure.read_text() if failure.exists() else ""

        command = (sys.executable, "-m", "services.predictor")
        with child(command, environment, log) as server:
            address = server.wait_until_ready(url, "/v2/health/ready", READY_SECONDS, reason)
            with Endpoint(address, version, key) as endpoint:
                yield endpoint
