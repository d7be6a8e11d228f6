"""Versions of other predictors, loaded at the start before this process becomes ready.

In a cluster the address resolves to ready pods, for example to the pod that an upgrade is about to
end. At the first start no pod answers.
"""

import logging
from pathlib import Path

import aiohttp

log = logging.getLogger(__name__)
REQUEST_SECONDS = 5.0


async def versions_served_by(url: str) -> dict[str, Path]:
    """Return version and directory of all versions of the peer; empty if unreachable."""
    timeout = aiohttp.ClientTimeout(REQUEST_SECONDS)
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
    log.info("peer serves versions", extra={"fields": {"versions": ",".join(sorted(served))}})
    return served
