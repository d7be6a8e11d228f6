"""Readiness of the system: the model server has loaded a version.

The URL is printed afterwards.
"""

import asyncio
import json
import time
import urllib.request
from collections.abc import Callable

from infra.run.supervision.child import ChildFailedError
from infra.run.supervision.terminal import SUPERVISOR

MODEL_SECONDS = 300.0
POLL_SECONDS = 0.3
SAY_AFTER_SECONDS = 5.0


async def wait_for_model(
    predictor_url: str, key: str, converts: bool, say: Callable[[str, str], None]
) -> None:
    """Poll KServe's repository index until a version is ready; print a message if this takes long.

    Args:
        predictor_url: URL of the model server.
        key: key of the model server.
        converts: True if no model was converted before, so that loading takes longer.
        say: prints a line of the supervisor.

    Raises:
        ChildFailedError: a version could not be loaded, with the reason of the model server, or the
            time-out expired.
    """
    started, announced = time.monotonic(), False
    while (waited := time.monotonic() - started) < MODEL_SECONDS:
        versions = await asyncio.to_thread(_index, predictor_url, key)
        if any(version["state"] == "READY" for version in versions):
            return
        if broken := [v for v in versions if v["state"] == "UNAVAILABLE" and v["reason"]]:
            reasons = "; ".join(f"{v['name']}: {v['reason']}" for v in broken)
            raise ChildFailedError(
                f"the model could not be loaded: {reasons}",
                field=", ".join(v["name"] for v in broken),
                reason="DAMAGED",
            )
        if waited > SAY_AFTER_SECONDS and not announced:
            announced = True
            first_time = " and, this first time, converted for this processor" if converts else ""
            say(SUPERVISOR, f"the model is being loaded{first_time}")
        await asyncio.sleep(POLL_SECONDS)
    raise ChildFailedError(
        f"the model was not ready within {MODEL_SECONDS:.0f} s; see the predictor's log",
        field="predictor",
        reason="TIMED_OUT",
        limit=f"{MODEL_SECONDS:.0f} s",
    )


def _index(predictor_url: str, key: str) -> list[dict[str, str]]:
    url = f"{predictor_url}/v2/repository/index"
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    request = urllib.request.Request(url, b"{}", headers, method="POST")  # noqa: S310 - loopback
    with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310 - loopback
        versions: list[dict[str, str]] = json.load(response)
    return versions
