"""Chromium for the journeys on the page."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

from infra.install.tools import install_browser
from tests.journeys.browser import FLAGS


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Run one browser for all tests. Each test has its own context without cookies and storage."""
    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=str(install_browser()), args=FLAGS)
        yield started
        started.close()
