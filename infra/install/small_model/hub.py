"""Models from the Hugging Face hub: a local copy if present, else a download.

The hub's client waits long on an unavailable network and prints little. Therefore the hub is
queried first, with a bounded time.
"""

import json
import threading
from collections.abc import Callable
from contextlib import suppress
from http.client import HTTPException
from importlib.util import find_spec
from pathlib import Path
from queue import Empty, SimpleQueue
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from infra.install.environment import cache
from infra.install.small_model.errors import ModelError
from infra.install.small_model.packages import Say

REQUIRED_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json")
MODEL_FILE_PATTERNS = ("*.json", "*.safetensors", "*.jinja", "LICENSE*", "NOTICE*")
TRIES, TRY_SECONDS = 2, 10.0
NOT_ALLOWED, NOT_FOUND, BROKEN = (401, 403), 404, 500


def from_hub(hub_id: str, say: Say, try_seconds: float = TRY_SECONDS) -> Path:
    """Return the folder of a model.

    Raises:
        ModelError: the model is unavailable; the message contains the reason and the alternatives.
    """
    if find_spec("huggingface_hub") is None:
        raise _unavailable(
            hub_id,
            "huggingface_hub is not installed (uv pip install huggingface_hub)",
            "MISSING",
            "huggingface_hub",
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
    )

    say(f"MODEL={hub_id}: looking for a copy on this machine")
    for place in (cache() / "hub", None):  # our cache, then the cache of the hub's client
        with suppress(LocalEntryNotFoundError, HFValidationError, OSError):
            copy = Path(snapshot_download(hub_id, cache_dir=place, local_files_only=True))
            if not missing_files(copy):
                say(f"found a copy of {hub_id}: {copy}")
                return copy
    _check_availability(hub_id, say, try_seconds)
    from httpx2 import HTTPError as ClientError  # needed for a download only

    say(f"downloading {hub_id}")
    patterns = list(MODEL_FILE_PATTERNS)
    try:
        return Path(snapshot_download(hub_id, cache_dir=cache() / "hub", allow_patterns=patterns))
    except (HfHubHTTPError, ClientError, OSError, ValueError) as error:
        why = f"the download was interrupted ({type(error).__name__}); run again to continue"
        raise _unavailable(hub_id, why, "STOPPED") from error


def missing_files(folder: Path) -> list[str]:
    """Return the missing files of a model directory, including the shards named by its index."""
    missing = [name for name in REQUIRED_FILES if not (folder / name).is_file()]
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = set(json.loads(index.read_text())["weight_map"].values())
        missing += sorted(shard for shard in shards if not (folder / shard).is_file())
    elif not list(folder.glob("*.safetensors")):
        missing.append("*.safetensors")
    return missing


def _check_availability(hub_id: str, say: Say, try_seconds: float) -> None:
    """Check that the hub provides the model."""
    # The client's own helper for headers sends another request first, so build the header here.
    from huggingface_hub import constants, get_token

    endpoint, token = constants.ENDPOINT, get_token()
    headers = {"authorization": f"Bearer {token}"} if token else {}
    # The user chooses the scheme with HF_ENDPOINT.
    request = Request(f"{endpoint}/api/models/{hub_id}", headers=headers)  # noqa: S310
    why = ""
    for number in range(1, TRIES + 1):
        say(f"asking {endpoint} for {hub_id}: {try_seconds:g} s at most (try {number} of {TRIES})")
        status, why = _call_with_timeout(try_seconds, lambda: _status(request))
        if status == NOT_FOUND or status in NOT_ALLOWED:
            raise _unavailable(
                hub_id,
                f"{endpoint}: status {status}; check the name; some models need HF_TOKEN",
                "UNKNOWN",
            )
        if 0 < status < BROKEN:
            return
    raise _unavailable(hub_id, f"{endpoint} cannot be reached ({why})", "UNREACHABLE")


def _status(request: Request) -> tuple[int, str]:
    """Return the HTTP status, or 0 and the reason for the missing status."""
    try:
        with urlopen(request, timeout=TRY_SECONDS) as answer:  # noqa: S310 - as above
            return int(answer.status), ""
    except HTTPError as error:
        error.close()
        return error.code, f"status {error.code}"
    except (OSError, HTTPException, ValueError) as error:
        return 0, str(error) or type(error).__name__


def _call_with_timeout(seconds: float, ask: Callable[[], tuple[int, str]]) -> tuple[int, str]:
    """Run a request in a thread with a bounded time.

    Name resolution and several silent addresses take longer than the time-out of a socket.
    """
    answers: SimpleQueue[tuple[int, str]] = SimpleQueue()
    threading.Thread(target=lambda: answers.put(ask()), daemon=True).start()
    try:
        return answers.get(timeout=seconds)
    except Empty:
        return 0, f"no answer in {seconds:g} s"


def _unavailable(hub_id: str, why: str, reason: str, field: str = "MODEL") -> ModelError:
    name = hub_id.split("/")[1]
    return ModelError(
        f"MODEL={hub_id}: {why}; alternatives: the folder of a copy (MODEL=/path/to/{name}: "
        f"{', '.join(REQUIRED_FILES)}, *.safetensors) "
        "or a copy of the hub's cache (HF_HOME=/path/to/huggingface)",
        field=field,
        reason=reason,
    )
