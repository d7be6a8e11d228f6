"""The page in Chromium, without errors and without requests to other hosts."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from playwright.sync_api import Browser, ConsoleMessage, Page

from tests.journeys.stack import Stack

# Without GPU, /dev/shm and sandbox, since the sandbox requires additional rights.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-software-rasterizer",
    "--disable-dev-shm-usage",
]
# A page without a session learns from this refusal that it has none.
SESSION_LOOKUP = (401, "/api/account")
SIZES = {"desktop": (1280, 800), "phone": (390, 844)}


@contextmanager
def opened(
    browser: Browser,
    stack: Stack,
    size: tuple[int, int],
    path: str,
    refused: Sequence[tuple[int, str]] = (),
) -> Iterator[Page]:
    """Open a path of the page in a new context; a key in the path is confirmed.

    Logged errors and requests to other hosts fail the test.

    Args:
        refused: status and end of the path of calls that the gateway may refuse; the browser logs
            an error for each.
    """
    allowed = [SESSION_LOOKUP, *refused]
    width, height = size
    troubles: list[str] = []
    page = browser.new_page(viewport={"width": width, "height": height})
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on(
        "console",
        lambda message: (
            troubles.append(message.text)
            if message.type == "error" and not is_refusal(message, allowed)
            else None
        ),
    )
    page.on(
        "request", lambda asked: troubles.append(asked.url) if stack.http not in asked.url else None
    )
    page.goto(f"{stack.http}{path}")
    if "#key=" in path:
        page.get_by_role("button", name="Sign in as").click()
    yield page
    page.close()
    assert not troubles


def is_refusal(message: ConsoleMessage, allowed: Sequence[tuple[int, str]]) -> bool:
    """Return True for the error that the browser logs for an allowed refusal of a call."""
    url = message.location["url"]
    return any(f"{status}" in message.text and url.endswith(end) for status, end in allowed)
