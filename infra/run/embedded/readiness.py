"""Readiness of the system: the model server has loaded a version.

The URL is printed afterwards.
"""

import asyncio
import json
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

from infra.run.embedded.layout import VLLM, VLLM_LOAD_SECONDS, Layout
from infra.run.supervision.child import ChildFailedError
from infra.run.supervision.terminal import SUPERVISOR

MODEL_SECONDS = 300.0
POLL_SECONDS = 0.3
SAY_AFTER_SECONDS = 5.0
SAY_EVERY_SECONDS = 60.0


async def wait_for_answers(
    layout: Layout, model: Path | None, say: Callable[[str, str], None]
) -> None:
    """Wait for the model server; an external model needs none, which is printed.

    Args:
        layout: as for `wait_for_model`.
        model: first stable version, or None for an external model.
        say: prints a line of the supervisor.

    Raises:
        ChildFailedError: as `wait_for_model`.
    """
    if model is not None:
        await wait_for_model(layout, say)
        return
    say(
        SUPERVISOR,
        "an external model answers: the conversations go to its provider, and nothing is trained",
    )


async def wait_for_model(layout: Layout, say: Callable[[str, str], None]) -> None:
    """Poll KServe's repository index until a version is ready; print messages if this takes long.

    Args:
        layout: state folder, ports and model server of a run; the folder has the key.
        say: prints a line of the supervisor.

    Raises:
        ChildFailedError: a version could not be loaded, with the reason of the model server, or the
            time-out expired.
    """
    url, key = f"http://{layout.target('predictor')}", layout.key("model-server-key")
    if layout.vllm_python is not None:
        limit, log = float(VLLM_LOAD_SECONDS), layout.state / VLLM
        expected = (
            f"vLLM loads the model (about a minute, on a busy machine several; its log is in {log})"
        )
    else:
        limit, log = MODEL_SECONDS, layout.logs / "predictor.log"
        first_time = " and, this first time, converted for this processor"
        expected = f"the model is being loaded{'' if layout.has_graphs else first_time}"
    started, next_message = time.monotonic(), SAY_AFTER_SECONDS
    while (waited := time.monotonic() - started) < limit:
        versions = await asyncio.to_thread(_index, url, key)
        if any(version["state"] == "READY" for version in versions):
            return
        if broken := [v for v in versions if v["state"] == "UNAVAILABLE" and v["reason"]]:
            reasons = "; ".join(f"{v['name']}: {v['reason']}" for v in broken)
            raise ChildFailedError(
                f"the model could not be loaded: {reasons}",
                field=", ".join(v["name"] for v in broken),
                reason="DAMAGED",
            )
        if waited > next_message:
            since = f", {waited:.0f} s so far" if next_message > SAY_AFTER_SECONDS else ""
            say(SUPERVISOR, f"{expected}{since}")
            next_message = waited + SAY_EVERY_SECONDS
        await asyncio.sleep(POLL_SECONDS)
    raise ChildFailedError(
        f"the model was not ready within {limit:.0f} s; see {log}",
        field="predictor",
        reason="TIMED_OUT",
        limit=f"{limit:.0f} s",
    )


def _index(predictor_url: str, key: str) -> list[dict[str, str]]:
    url = f"{predictor_url}/v2/repository/index"
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    request = urllib.request.Request(url, b"{}", headers, method="POST")  # noqa: S310 - loopback
    with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310 - loopback
        versions: list[dict[str, str]] = json.load(response)
    return versions
