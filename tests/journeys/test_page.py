"""The page in a real browser: a person asks, sees the answer come, corrects, rates, regenerates, edits, reloads."""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from infra.install.tools import install_browser
from tests.journeys.stack import Stack

# Without a GPU and without /dev/shm; the sandbox needs rights that tests do not have.
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-software-rasterizer", "--disable-dev-shm-usage"]
SIZES = {"desktop": (1280, 800), "phone": (390, 844)}


@pytest.fixture(params=SIZES, ids=str)
def page(request: pytest.FixtureRequest, stack: Stack) -> Iterator[Page]:
    """A browser on the page; whatever it logs as an error or asks of another host fails the test."""
    width, height = SIZES[request.param]
    troubles: list[str] = []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=str(install_browser()), args=FLAGS)
        page = browser.new_page(viewport={"width": width, "height": height})
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("console", lambda message: troubles.append(message.text) if message.type == "error" else None)
        page.on("request", lambda asked: troubles.append(asked.url) if stack.http not in asked.url else None)
        page.goto(f"{stack.http}/#key={stack.make_keys('browser')[0]}")
        yield page
        browser.close()
    assert not troubles


def ask(page: Page, text: str) -> None:
    page.get_by_label("Your message").fill(text)
    page.keyboard.press("Enter")


def test_a_person_chats_rates_and_goes_back(page: Page) -> None:
    assert "tw_" not in page.url, "the key leaves the address bar"
    ask(page, "wat is teh captial of france")
    expect(page.get_by_label("Good answer")).to_be_visible(timeout=30_000)
    expect(page.locator(".bubble")).to_have_text("What is the capital of France?")
    page.get_by_text("Typing corrected").click()
    expect(page.locator(".changes del").first).to_have_text("wat")

    page.get_by_label("Bad answer").click()
    page.get_by_role("button", name="too short").click()
    page.locator(".panel").get_by_role("button", name="Send").click()
    expect(page.get_by_text("Thank you: noted.")).to_be_visible()

    page.get_by_role("button", name="Regenerate").click()
    expect(page.get_by_text("2 / 2")).to_be_visible(timeout=30_000)
    page.get_by_label("Previous version").click()
    expect(page.get_by_label("Bad answer")).to_have_attribute("aria-pressed", "true")

    page.get_by_role("button", name="A better answer would be…").click()
    page.get_by_label("A better answer", exact=True).fill("Paris.")
    page.locator(".panel").get_by_role("button", name="Send").click()
    expect(page.get_by_text("Thank you: noted.")).to_be_visible()

    page.get_by_role("button", name="Edit").click()
    page.get_by_label("Edit your message").fill("good morning")
    page.get_by_role("button", name="Ask again").click()
    expect(page.locator(".bubble")).to_have_text(re.compile("Good morning"), timeout=30_000)
    expect(page.get_by_label("Good answer")).to_be_visible(timeout=30_000)

    for _ in range(4):
        ask(page, "good evening")
        expect(page.get_by_role("button", name="Send")).to_be_visible(timeout=30_000)
    expect(page.get_by_label("Good answer").last).to_be_in_viewport()

    answer = page.locator(".answer .text").last.inner_text()
    page.reload()
    expect(page.locator(".answer .text").last).to_have_text(re.compile(re.escape(answer.strip())), timeout=30_000)


def test_a_wrong_key_is_asked_for_again(page: Page) -> None:
    page.evaluate("localStorage.setItem('thumbwheel.key', '')")
    page.reload()
    expect(page.get_by_label("API key")).to_be_visible()
