"""The arena in a real browser: battles with a vote, versions side by side, the leaderboard."""

import re
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.journeys.browser import SIZES, opened
from tests.journeys.stack import Stack, running_stack
from tests.journeys.version_copies import copy_of
from training.remote import RolloutClient
from training.service_identity import FOLDER, OPERATOR, ServiceIdentity

QUESTION = "good morning"
CANDIDATE, LEASE_SECONDS = "other-7", 600.0


@pytest.fixture(params=SIZES, ids=str)
def page(request: pytest.FixtureRequest, stack: Stack, browser: Browser) -> Iterator[Page]:
    key = stack.make_keys(f"arena-{uuid.uuid4().hex[:8]}")[0]
    with opened(browser, stack, SIZES[request.param], f"/arena.html#key={key}") as page:
        yield page


def ask(page: Page, text: str) -> None:
    page.get_by_role("textbox", name="Your message").fill(text)
    page.keyboard.press("Enter")


def test_versions_side_by_side_and_the_leaderboard(page: Page) -> None:
    page.get_by_role("link", name="Side by side").click()
    version = page.get_by_role("group", name="Versions").get_by_role("checkbox")
    expect(version).to_have_count(1)
    expect(version).to_be_checked()
    expect(page.get_by_text("Only one version is served at present.")).to_be_visible()
    ask(page, QUESTION)
    expect(page.get_by_role("status")).to_have_text("All answers are complete.", timeout=30_000)
    expect(page.locator("main:visible .columns .answer .text")).not_to_be_empty()

    page.get_by_role("link", name="Leaderboard").click()
    expect(page.get_by_role("status")).to_contain_text("votes count")
    # Topics without votes are not listed.
    expect(page.get_by_label("Topic").get_by_role("option")).to_have_count(1)
    with page.expect_response(re.compile(r"style_control=true")) as answered:
        page.get_by_role("switch", name="Control for style").click()
    assert answered.value.ok
    # The fragment keeps the view.
    page.reload()
    expect(page.get_by_label("Topic")).to_be_visible()


@pytest.fixture
def two_versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stack]:
    """A system with a stable version and a candidate for few users."""
    monkeypatch.setenv("TW_REVIEW_LEAST_VOTE_SECONDS", "0")
    with running_stack(tmp_path / "state") as stack:
        operator = ServiceIdentity(OPERATOR, stack.state / FOLDER / f"{OPERATOR}.key")
        target = f"127.0.0.1:{stack.ports['generator']}"
        with closing(RolloutClient(target, None, 60.0, operator)) as rollout:
            folder = copy_of(stack.state / "models" / rollout.view().stable, CANDIDATE)
            rollout.start(CANDIDATE, folder, 0.01, LEASE_SECONDS)
            yield stack


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_battles_reveal_the_versions_after_the_vote(two_versions: Stack, browser: Browser) -> None:
    stack = two_versions
    key, voted = stack.make_keys("judge")[0], 0
    for size in SIZES.values():
        with opened(browser, stack, size, f"/arena.html#key={key}") as page:
            for outcome in ("A is better", "Tie"):
                ask(page, f"{QUESTION}, tell me a story about {voted}")
                status = page.get_by_role("status")
                vote = page.get_by_role("group", name="Your vote").get_by_role("button")
                expect(status).to_contain_text("Which is better?", timeout=60_000)
                expect(vote).to_have_count(4)
                assert CANDIDATE not in page.locator("main:visible").inner_html()
                # The vote by keyboard.
                page.get_by_role("button", name=outcome).focus()
                page.keyboard.press("Enter")
                expect(status).to_contain_text(CANDIDATE, timeout=30_000)
                expect(page.locator(".columns h2").filter(has_text=CANDIDATE)).to_have_count(1)
                expect(page.get_by_text(f"You voted: {outcome}")).to_be_visible()
                expect(page.get_by_role("button", name="Next battle")).to_be_focused()
                page.keyboard.press("Enter")
                voted += 1
            page.get_by_role("link", name="Leaderboard").click()
            topics = page.get_by_label("Topic")
            expect(topics.get_by_role("option")).not_to_have_count(1)
            with page.expect_response(re.compile(r"topic=\w+")) as answered:
                topics.select_option(index=1)
            assert answered.value.ok
