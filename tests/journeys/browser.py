"""The page in Chromium, without errors and without requests to other hosts."""

from collections.abc import Iterator
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
SIZES = {"desktop": (1280, 800), "phone": (390, 844)}


@contextmanager
def opened(browser: Browser, stack: Stack, size: tuple[int, int], path: str) -> Iterator[Page]:
    """Open a path of the page in a new context.

    Logged errors and requests to other hosts fail the test.
    """
    width, height = size
    troubles: list[str] = []
    page = browser.new_page(viewport={"width": width, "height": height})
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on(
        "console",
        lambda message: (
            troubles.append(message.text)
            if message.type == "error" and not is_session_lookup(message)
            else None
        ),
    )
    page.on(
        "request", lambda asked: troubles.append(asked.url) if stack.http not in asked.url else None
    )
    page.goto(f"{stack.http}{path}")
    yield page
    page.close()
    assert not troubles


def is_session_lookup(message: ConsoleMessage) -> bool:
    """Return True for the 401 by which a page without a session learns that it has none."""
    return "401" in message.text and message.location["url"].endswith("/api/account")
