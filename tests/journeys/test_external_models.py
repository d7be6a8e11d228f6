"""A battle with an external model in a real browser; its endpoint dies within an answer."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from infra.run.supervision.ports import free_port
from tests.journeys.browser import SIZES, opened
from tests.journeys.external_endpoint import running_endpoint, set_external_model
from tests.journeys.stack import Stack, running_stack

MODEL, NAME = "rival-2", "external.rival"
WORDS = ["A ", "foreign ", "answer", "."]


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def stack(tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stack]:
    """A system with a stable version and an external model."""
    set_external_model(tmp_path, port, monkeypatch, "rival", MODEL)
    monkeypatch.setenv("TW_REVIEW_LEAST_VOTE_SECONDS", "0")
    monkeypatch.setenv("TW_REVIEW_LEADERBOARD_SECONDS", "0")
    with running_stack(tmp_path / "state") as stack:
        yield stack


def ask(page: Page, text: str) -> None:
    page.get_by_role("textbox", name="Your message").fill(text)
    page.keyboard.press("Enter")


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_external_model_is_announced_revealed_and_not_counted_if_it_dies(
    stack: Stack, port: int, browser: Browser
) -> None:
    key = stack.make_keys("judge")[0]
    with opened(browser, stack, SIZES["phone"], f"/arena.html#key={key}") as page:
        # Before the first question.
        expect(page.get_by_text("models of other providers (Example)")).to_be_visible()
        with running_endpoint(port, MODEL, script=WORDS):
            ask(page, "good morning")
            status = page.get_by_role("status")
            expect(status).to_contain_text("Which is better?", timeout=60_000)
            expect(
                page.locator(".columns .text").filter(has_text="A foreign answer.")
            ).to_be_visible()
            assert NAME not in page.locator("main:visible").inner_html()
            page.get_by_role("button", name="Both are bad").click()
            expect(status).to_contain_text(NAME, timeout=30_000)
            page.get_by_role("button", name="Next battle").click()

        with running_endpoint(port, MODEL, script=WORDS, cut_after=2, pace_seconds=0.3):
            ask(page, "good evening")
            expect(page.get_by_text("a model of this battle does not answer")).to_be_visible(
                timeout=60_000
            )
            # The button waits until the other answer has ended.
            page.get_by_role("button", name="A is better").click(timeout=60_000)
            expect(status).to_contain_text("an answer is incomplete", timeout=30_000)

        page.get_by_role("link", name="Leaderboard").click()
        expect(page.get_by_role("status")).to_contain_text("1 vote")
        row = page.get_by_role("row").filter(has_text=NAME).first
        expect(row).to_contain_text("Example")
        expect(row).to_contain_text("proprietary")
