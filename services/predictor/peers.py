"""What other predictors serve, asked when this one starts: it takes no traffic before it serves the
same.

In a cluster the address leads to whoever is ready, so to the pod that an upgrade is about to end;
where there is none, nobody answers.
"""

import logging
from pathlib import Path

import aiohttp

log = logging.getLogger(__name__)
ASK_SECONDS = 5.0


async def served_by(url: str) -> dict[str, Path]:
    """Version → directory of all that answers there; nothing if nobody does."""
    timeout = aiohttp.ClientTimeout(ASK_SECONDS)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as http,
            http.post(
                f"{url}/v2/repository/index", json={"ready": True}, raise_for_status=True
            ) as answer,
        ):
            served = {str(entry["name"]): Path(entry["directory"]) for entry in await answer.json()}
    except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, TypeError) as error:
        log.info("no peer", extra={"fields": {"reason": type(error).__name__}})
        return {}
    log.info("a peer serves", extra={"fields": {"versions": ",".join(sorted(served))}})
    return served
