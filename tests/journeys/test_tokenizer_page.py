"""The tokenizer page in a real browser: tokens of a live text in several encodings."""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, Request, expect

from tests.journeys.browser import SIZES, opened
from tests.journeys.stack import Stack

CHIPS_STEP = 300  # of services/web/src/tokenizer/limits.ts


@pytest.fixture(params=SIZES, ids=str)
def page(request: pytest.FixtureRequest, stack: Stack, browser: Browser) -> Iterator[Page]:
    with opened(browser, stack, SIZES[request.param], "/tokenizer.html") as page:
        yield page


@pytest.fixture
def desktop(stack: Stack, browser: Browser) -> Iterator[Page]:
    with opened(browser, stack, SIZES["desktop"], "/tokenizer.html") as page:
        yield page


def tokens(page: Page, encoding: str) -> list[str]:
    """Return the tokens of an encoding as shown, each with its id."""
    shown = page.get_by_role("list", name=f"Tokens of {encoding}").get_by_role("listitem")
    return [text.replace("\n", " ") for text in shown.all_inner_texts()]


def test_live_text_is_shown_as_tokens_in_several_encodings(page: Page) -> None:
    requests = list[Request]()
    page.on("request", lambda asked: requests.append(asked))
    text = page.get_by_label("Text", exact=True)
    text.fill("I love machine learning!")
    panel = page.get_by_role("region", name="cl100k_base")
    expect(panel.get_by_role("status")).to_have_text(
        "5 tokens, 4.80 bytes per token", timeout=20_000
    )
    assert tokens(page, "cl100k_base") == [
        *("I 40", "·love 3021", "·machine 5780", "·learning 6975", "! 0")
    ]
    expect(page.get_by_text("24 characters, 24 bytes")).to_be_visible()

    page.get_by_role("checkbox", name="r50k_base").check()
    page.get_by_role("checkbox", name="nano").check()
    text.press("End")
    text.press_sequentially(" perfectely\n 東")
    old = page.get_by_role("region", name="r50k_base")
    expect(old.get_by_role("status")).to_have_text(
        "12 tokens, 3.33 bytes per token", timeout=20_000
    )
    assert tokens(page, "r50k_base")[5:] == [
        *("·perfect 2818", "e 68", "ly 306", "⏎ 198", "20 E6 10545", "9D 251", "B1 109")
    ]
    cut = old.get_by_role("listitem").last
    expect(cut).to_have_attribute("title", "id 109, 1 byte: B1, part of 東 U+6771")
    expect(page.get_by_role("list", name="Tokens of nano")).to_be_visible()

    # No text leaves the browser.
    files = re.compile(
        re.escape(page.url.removesuffix("tokenizer.html")) + r"(icon\.svg|assets/[\w.-]+)"
    )
    assert [
        one.url for one in requests if one.method != "GET" or not files.fullmatch(one.url)
    ] == []

    page.get_by_label("Show ids").uncheck()
    assert tokens(page, "cl100k_base")[:2] == ["I", "·love"]
    width = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert width <= 0, "nothing is wider than the screen"


def test_long_text_is_limited_with_a_note(desktop: Page) -> None:
    expect(desktop.get_by_role("list", name="Tokens of o200k_base")).to_be_visible(timeout=20_000)
    desktop.get_by_label("Text", exact=True).fill("word " * 11_000)
    expect(desktop.get_by_role("alert")).to_contain_text("50,000 of 55,000 characters")
    panel = desktop.get_by_role("region", name="o200k_base")
    expect(panel.get_by_role("listitem")).to_have_count(CHIPS_STEP)
    more = panel.get_by_role("button", name="Show 300 more")
    more.focus()
    desktop.keyboard.press("Enter")
    expect(panel.get_by_role("listitem")).to_have_count(2 * CHIPS_STEP)


def test_encoding_that_cannot_be_loaded_is_named_and_tried_again(desktop: Page) -> None:
    expect(desktop.get_by_role("list", name="Tokens of o200k_base")).to_be_visible(timeout=20_000)
    desktop.route("**/r50k_base*", lambda route: route.fulfill(status=200, body="no rank file"))
    desktop.get_by_role("checkbox", name="r50k_base").check()
    panel = desktop.get_by_role("region", name="r50k_base")
    expect(panel.get_by_role("alert")).to_contain_text("r50k_base could not be loaded")
    desktop.unroute("**/r50k_base*")
    panel.get_by_role("button", name="Try again").click()
    expect(desktop.get_by_role("list", name="Tokens of r50k_base")).to_be_visible()


def test_chat_page_links_to_the_tokenizer(stack: Stack, browser: Browser) -> None:
    with opened(browser, stack, SIZES["desktop"], f"/#key={stack.owner_key}") as page:
        page.get_by_role("link", name="Tokenizer").click()
        expect(page.get_by_role("heading", name="Tokenizer")).to_be_visible()
        page.get_by_role("link", name="Thumbwheel").click()
        expect(page.get_by_label("Your message")).to_be_visible()
