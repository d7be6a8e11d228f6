"""The page in a real browser: ask, stream, correct, rate, regenerate, edit, reload."""

import re
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.journeys.browser import SIZES, opened
from tests.journeys.client import Client
from tests.journeys.rows import wait_for_row
from tests.journeys.stack import Stack

CODE = """def total(rows):
    # **All** rows
    return sum(row * 2 for row in rows)
"""


@pytest.fixture(params=SIZES, ids=str)
def page(request: pytest.FixtureRequest, stack: Stack, browser: Browser) -> Iterator[Page]:
    somebody_new = f"browser-{uuid.uuid4().hex[:8]}"
    with opened(
        browser, stack, SIZES[request.param], f"/#key={stack.make_keys(somebody_new)[0]}"
    ) as page:
        yield page


@pytest.fixture(params=SIZES, ids=str)
def operators_page(
    request: pytest.FixtureRequest, stack: Stack, browser: Browser
) -> Iterator[Page]:
    with opened(browser, stack, SIZES[request.param], f"/#key={stack.owner_key}") as page:
        yield page


def open_menu(page: Page) -> None:
    """Open the menu, which is a drawer on phones, once the page has read its session."""
    expect(page.get_by_role("region", name="Account")).to_be_visible()
    if (menu := page.get_by_label("Open the menu")).is_visible():
        menu.click()


def ask(page: Page, text: str) -> None:
    page.get_by_label("Your message").fill(text)
    page.keyboard.press("Enter")


def test_user_chats_rates_and_navigates_back(page: Page) -> None:
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
    expect(page.locator(".conversation .open").first).to_have_text(re.compile("Good morning"))
    expect(page.get_by_label("Good answer")).to_be_visible(timeout=30_000)

    for _ in range(4):
        ask(page, "good evening")
        expect(page.get_by_role("button", name="Send")).to_be_visible(timeout=30_000)
    expect(page.get_by_label("Good answer").last).to_be_in_viewport()

    answer = page.locator(".answer .text").last.inner_text()
    page.reload()
    expect(page.locator(".answer .text").last).to_have_text(
        re.compile(re.escape(answer.strip())), timeout=30_000
    )


def test_feedback_stays_visible_and_can_be_changed_and_retracted(page: Page) -> None:
    ask(page, "hello")
    page.get_by_label("Bad answer").click(timeout=30_000)
    page.get_by_role("button", name="too short").click()
    page.get_by_label("Comment").fill("and rude, naïve too")
    page.locator(".panel").get_by_role("button", name="Send").click()
    page.get_by_role("button", name="A better answer would be…").click()
    page.get_by_label("A better answer", exact=True).fill("Hello, you!\nHow are you?")
    page.locator(".panel").get_by_role("button", name="Send").click()
    words = page.locator(".own-words")
    for _ in range(2):
        expect(words).to_contain_text("You said: too short · “and rude, naïve too”")
        expect(words.locator("q")).to_have_text("Hello, you!\nHow are you?")
        page.reload()

    words.get_by_role("button", name="Change").click()
    expect(page.get_by_label("Comment")).to_have_value("and rude, naïve too")
    page.get_by_role("button", name="wrong").click()
    page.locator(".panel").get_by_role("button", name="Send").click()
    page.get_by_role("button", name="Change your better answer…").click()
    page.get_by_label("A better answer", exact=True).fill("Good day.")
    page.locator(".panel").get_by_role("button", name="Send").click()
    for _ in range(2):
        expect(words).to_contain_text("You said: too short, wrong · “and rude, naïve too”")
        expect(words.locator("q")).to_have_text("Good day.")
        page.reload()

    page.get_by_role("button", name="Take back your better answer").click()
    expect(page.get_by_role("status")).to_have_text("Taken back.")
    page.get_by_role("button", name="Take back what you said").click()
    expect(page.get_by_role("status")).to_have_text("Thank you: noted.")
    for _ in range(2):
        expect(page.get_by_label("Bad answer")).to_have_attribute("aria-pressed", "true")
        expect(words).to_have_count(0)
        page.reload()
    page.get_by_label("Bad answer").click()
    for _ in range(2):
        expect(page.get_by_label("Bad answer")).to_have_attribute("aria-pressed", "false")
        page.reload()


def test_late_ack_closes_no_form_and_conversation_loads_once(
    page: Page,
) -> None:
    ask(page, "hello")
    expect(page.get_by_label("Good answer")).to_be_visible(timeout=30_000)
    loads: list[str] = []
    page.on(
        "request",
        lambda asked: loads.append(asked.url) if "/api/conversations/" in asked.url else None,
    )
    held: list[Route] = []
    page.route("**/api/feedback", lambda route: held.append(route))
    page.reload()
    page.get_by_label("Good answer").click()
    page.get_by_role("button", name="A better answer would be…").click()
    page.get_by_label("A better answer", exact=True).fill("Hello, you!")
    held[0].continue_()
    expect(page.get_by_label("Good answer")).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_label("A better answer", exact=True)).to_have_value("Hello, you!")
    # A second load would bring back the state from before the thumb.
    assert len(loads) == 1


def test_code_without_fences_is_shown_as_code_and_stored_unchanged(
    page: Page, stack: Stack
) -> None:
    ask(page, "hello")
    expect(page.get_by_label("Good answer")).to_be_visible(timeout=30_000)
    user = page.get_by_role("region", name="Account").locator("strong").first.inner_text()
    person = Client(stack.http, stack.make_keys(user)[0])
    conversation = person.call("GET", "/api/conversations")[1]["conversations"][0]["id"]
    answer = person.conversation(conversation)[-1]["id"]
    text = f"You can write:\n\n{CODE}\nIt adds the *doubled* rows."
    # The test model writes no code, so its stored answer is replaced.
    with closing(sqlite3.connect(stack.state / "sessions.db")) as database, database:
        assert (
            database.execute("UPDATE messages SET text = ? WHERE id = ?", (text, answer)).rowcount
            == 1
        )
    page.reload()
    expect(page.locator(".answer .text > p")).to_have_text(
        ["You can write:", "It adds the doubled rows."]
    )
    assert page.locator(".answer pre > code").all_text_contents() == [CODE]
    assert person.conversation(conversation)[-1]["text"] == text


@pytest.mark.parametrize("page", ["desktop"], indirect=True)
def test_key_in_a_link_replaces_no_session_without_an_answer(page: Page, stack: Stack) -> None:
    """Finding S-13: a link signed the user in with the key of another user, without a question."""
    account = page.get_by_role("region", name="Account")
    expect(account).to_contain_text(re.compile(r"Signed in as browser-\w+ of default"))
    user = account.locator("strong").first.inner_text()
    foreign = stack.make_keys("mallory", tenant="elsewhere")[0]
    # In the open page only the fragment changes; from another address the page is loaded.
    for before in ("/", "/icon.svg"):
        page.goto(f"{stack.http}{before}")
        page.goto(f"{stack.http}/#key={foreign}")
        question = page.get_by_role("alertdialog", name="Sign in as another user?")
        expect(question).to_contain_text(f"{user} of default")
        expect(question).to_contain_text("mallory of elsewhere")
        assert "tw_" not in page.url
        question.get_by_role("button", name="Stay signed in").click()
        expect(account).to_contain_text(f"Signed in as {user} of default")
        page.reload()
        expect(account).to_contain_text(f"Signed in as {user} of default")

    account.get_by_role("button", name="Use another key").click()
    page.get_by_label("API key").fill(foreign)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("button", name="Sign in as mallory of elsewhere").click()
    expect(account).to_contain_text("Signed in as mallory of elsewhere")


def test_key_in_a_link_signs_nobody_in_without_an_answer(browser: Browser, stack: Stack) -> None:
    """Finding N-12: a browser without a session was signed in with the key of any link."""
    foreign = stack.make_keys("mallory", tenant="elsewhere")[0]
    with opened(browser, stack, SIZES["phone"], "/icon.svg") as page:
        page.goto(f"{stack.http}/#key={foreign}")
        question = page.get_by_role("alertdialog", name="Sign in with the key of this link?")
        expect(question).to_contain_text("mallory of elsewhere")
        assert "tw_" not in page.url
        question.get_by_role("button", name="Do not sign in").click()
        expect(page.get_by_label("API key")).to_be_visible()
        assert page.context.cookies() == []


@pytest.mark.parametrize("page", ["desktop"], indirect=True)
def test_no_key_is_readable_by_scripts_and_sign_out_ends_the_session(
    page: Page, stack: Stack
) -> None:
    """Finding S-24: the key was in localStorage and in a cookie, and there was no sign-out."""
    account = page.get_by_role("region", name="Account")
    expect(account).to_be_visible()
    readable = "JSON.stringify([document.cookie, {...localStorage}, {...sessionStorage}])"
    assert "tw_" not in page.evaluate(readable)
    (cookie,) = page.context.cookies()
    assert (cookie["name"], cookie["httpOnly"], cookie["sameSite"]) == (
        "tw_session",
        True,
        "Strict",
    )
    account.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("API key")).to_be_visible()
    assert page.context.cookies() == []
    page.reload()
    expect(page.get_by_label("API key")).to_be_visible()

    # A key that an earlier version stored signs in once.
    old = stack.make_keys("longtime")[0]
    page.evaluate(
        "key => { localStorage.setItem('thumbwheel.key', key);"
        " document.cookie = 'tw_key=' + key + '; path=/api/loop/report' }",
        old,
    )
    page.reload()
    expect(account).to_contain_text("Signed in as longtime of default")
    assert old not in page.evaluate(readable)
    assert [found["name"] for found in page.context.cookies()] == ["tw_session"]


def test_user_sets_consent_and_erases_all_data(page: Page) -> None:
    ask(page, "hello")
    expect(page.get_by_label("Good answer")).to_be_visible(timeout=30_000)
    open_menu(page)
    page.get_by_role("button", name="Your data").focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="Your data")
    expect(dialog).to_contain_text(re.compile(r"You are known here as browser-\w+ of default"))

    switch = dialog.get_by_role("switch", name="Use my chats and thumbs to make the model better")
    expect(switch).to_be_checked()
    switch.focus()
    page.keyboard.press("Space")
    expect(switch).not_to_be_checked()
    page.keyboard.press("Escape")
    expect(dialog).not_to_be_visible()
    expect(page.get_by_role("button", name="Your data")).to_be_focused()
    expect(page.get_by_text("Your chats and thumbs train nothing.")).to_be_visible()
    page.reload()
    open_menu(page)
    page.get_by_role("button", name="Your data").click()
    expect(switch).not_to_be_checked()
    switch.click()
    expect(switch).to_be_checked()

    dialog.get_by_role("button", name="Delete my data…").click()
    expect(dialog.get_by_role("button", name="Keep it")).to_be_focused()
    expect(dialog).to_contain_text("versions of the model that are trained already")
    page.keyboard.press("Enter")
    expect(dialog.get_by_role("button", name="Delete my data…")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(dialog.get_by_role("status")).to_contain_text("with 1 conversation", timeout=30_000)
    expect(dialog.get_by_role("button", name="Delete my data…")).to_be_focused()
    dialog.get_by_role("button", name="Close").click()
    expect(page.get_by_text("What would you like to know?")).to_be_visible()

    page.reload()
    open_menu(page)
    expect(page.get_by_text("No conversations yet.")).to_be_visible()
    page.get_by_role("button", name="Your data").click()
    expect(dialog.get_by_role("status")).to_contain_text("cannot be read any more")


@pytest.mark.parametrize("page", ["desktop"], indirect=True)
def test_copies_of_answers_are_reported_with_consent_only(page: Page, stack: Stack) -> None:
    ask(page, "hello")
    answer = page.locator(".answer .text").last
    expect(page.get_by_label("Good answer")).to_be_visible(timeout=30_000)
    answer.select_text()
    with page.expect_response(f"{stack.http}/api/feedback") as reported:
        page.keyboard.press("Control+C")
    assert reported.value.request.post_data_json["signal"] == {"kind": "copied"}
    assert reported.value.ok
    # Not by the event's id: the page does not read the body, so the browser never completes it.
    wait_for_row(stack, "signal", "copied")
    # A copy is no rating.
    expect(page.get_by_label("Good answer")).to_have_attribute("aria-pressed", "false")

    page.get_by_role("button", name="Your data").click()
    page.get_by_role("switch").click()
    expect(page.get_by_role("switch")).not_to_be_checked()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Regenerate").click()
    expect(page.get_by_text("2 / 2")).to_be_visible(timeout=30_000)
    sent: list[str] = []
    page.on("request", lambda asked: sent.append(asked.post_data or ""))
    answer.select_text()
    page.keyboard.press("Control+C")
    with page.expect_response(f"{stack.http}/api/feedback"):
        page.get_by_label("Good answer").click()
    assert len([body for body in sent if "thumb" in body]) == 1
    assert not [body for body in sent if "signal" in body]


def test_operator_sees_the_ratings_of_the_versions(operators_page: Page, stack: Stack) -> None:
    page, somebody = operators_page, Client(stack.http, stack.make_keys("rater")[0])
    expect(page.get_by_text("Learning")).to_have_count(1)
    answer = somebody.ask("hello")[0]
    wait_for_row(stack, "message_id", answer["messageId"])
    wait_for_row(stack, "event_id", somebody.thumb(answer["messageId"], True))
    page.reload()
    open_menu(page)
    expect(page.get_by_text(re.compile(r"\d+ thumbs? so far"))).to_be_visible()
    table = page.get_by_role("table", name="The newest versions")
    # Other tests ask for the version by name, which is another row.
    version = answer["started"]["modelVersion"]
    expect(table.get_by_role("rowheader", name=version, exact=True)).to_be_visible()
    expect(table.locator(".interval").first).to_be_visible()
    expect(table.locator(".interval").first).to_contain_text("%")
