"""The reviewers' pages in a real browser: two raters, a disagreement, its resolution, agreement."""

import re
import uuid
from collections.abc import Mapping

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from services.chassis.identity import Caller
from tests.journeys.browser import SIZES, opened
from tests.journeys.client import Client
from tests.journeys.drawn_items import add_item
from tests.journeys.stack import Stack

SCALES = ("Correctness", "Helpfulness", "Clarity", "Safety")
SCOPES = "chat,feedback,account,review"
# An answer to each question is right, the other one is wrong; the second rater errs in the last.
QUESTIONS = [f"What is {number} plus {number}?" for number in range(1, 6)]
DISPUTED = QUESTIONS[-1]
EMPTY_QUEUE = (404, "/api/reviews/next")
# Clicks pairs of a row and a button of it. The page renders after each click.
CLICKS = """async (pairs) => {
  for (const [row, text] of pairs) {
    const labels = [...document.querySelectorAll(`[aria-label="${row}"] label`)];
    labels.find((label) => label.textContent === text).click();
    await new Promise((resolve) => setTimeout(resolve));
  }
}"""


@pytest.fixture
def owner() -> Caller:
    """User of the judged conversations, in a tenant of the test's own."""
    return Caller(f"reviews-{uuid.uuid4().hex[:8]}", "owner")


def letters(page: Page, *texts: str) -> list[str]:
    """Return the letters of the answers with these texts."""
    answers = page.locator(".columns .answer")
    expect(answers).to_have_count(len(texts))
    titles = {
        answer.locator(".text").inner_text(): answer.get_attribute("aria-label")
        for answer in answers.all()
    }
    return [str(titles[text])[-1] for text in texts]


def option(page: Page, row: str, number: int) -> Locator:
    """Return a button of a row of the form."""
    group = page.get_by_role("radiogroup", name=row, exact=True)
    return group.get_by_label(f"{number}", exact=True)


def fill(page: Page, scores: Mapping[str, int], best: str = "") -> None:
    """Give each answer one score on all scales, and rank one answer before the others.

    A script clicks, since ten calls of Playwright for each review take seconds. The other tests of
    the form use keyboard and pointer.

    Args:
        page: with one form.
        scores: by letter of the answer.
        best: letter; empty for no ranking.
    """
    chosen = [
        (f"{scale} of Answer {letter}", f"{score}")
        for letter, score in scores.items()
        for scale in SCALES
    ]
    if best:
        chosen += [(f"Place of Answer {x}", "1" if x == best else "2") for x in scores]
    page.evaluate(CLICKS, chosen)


def by_keyboard(page: Page, right: str, wrong: str) -> None:
    """Fill the form without a pointer: the arrow keys choose, the tab key goes on."""
    page.get_by_role("heading", name="Judge 2 answers").focus()
    for scale in SCALES:
        for letter in sorted((right, wrong)):
            page.keyboard.press("Tab")
            expect(option(page, f"{scale} of Answer {letter}", 1)).to_be_focused()
            # From an unchosen row, the first arrow chooses the second number.
            for _ in range(3 if letter == right else 1):
                page.keyboard.press("ArrowRight")
    for letter in sorted((right, wrong)):
        page.keyboard.press("Tab")
        expect(option(page, f"Place of Answer {letter}", 1)).to_be_focused()
        page.keyboard.press("Space" if letter == right else "ArrowRight")


def judge_queue(page: Page, count: int, right_score: int, wrong_score: int, *, errs: bool) -> None:
    """Judge the items of the queue by pointer.

    Args:
        page: with the next item.
        count: number of items.
        right_score: of the right answers.
        wrong_score: of the wrong answers.
        errs: the rater prefers the wrong answer to the disputed question.
    """
    for left in range(count, 0, -1):
        expect(page.get_by_role("status").first).to_contain_text(f"{left} item")
        better, worse = letters(page, "right", "wrong")
        if errs and page.locator(".bubble").inner_text() == DISPUTED:
            better, worse = worse, better
            page.get_by_label("Comment").fill("the other one is wrong")
        fill(page, {better: right_score, worse: wrong_score}, best=better)
        expect(page.get_by_text(f"Order: {better}, then {worse}.")).to_be_visible()
        page.get_by_role("button", name="Submit the review").click()
        expect(page.get_by_text("Your review is stored.")).to_be_visible()
    expect(page.get_by_role("heading", name="Nothing is left to judge")).to_be_focused()


def test_disagreement_of_two_raters_is_resolved_by_a_third(
    stack: Stack, browser: Browser, owner: Caller
) -> None:
    for question in QUESTIONS:
        add_item(stack, owner, "right", "wrong", question=question)
    keys = stack.make_keys("rater", 3, owner.tenant, SCOPES)
    addresses = [f"/review.html#key={key}" for key in keys]
    size = SIZES["desktop"]

    with opened(browser, stack, size, addresses[0], [EMPTY_QUEUE]) as page:
        right, wrong = letters(page, "right", "wrong")
        by_keyboard(page, right, wrong)
        page.get_by_label("A better answer").fill("It is right.")
        page.reload()
        expect(page.get_by_label("A better answer")).to_have_value("It is right.")
        expect(page.get_by_text(f"Order: {right}, then {wrong}.")).to_be_visible()
        expect(page.locator("input:checked")).to_have_count(2 * len(SCALES) + 2)
        page.get_by_role("button", name="Submit the review").click()
        judge_queue(page, len(QUESTIONS) - 1, 4, 2, errs=False)
        assert page.evaluate("sessionStorage.length") == 0

    with opened(browser, stack, size, addresses[1], [EMPTY_QUEUE, (409, "/resolution")]) as page:
        judge_queue(page, len(QUESTIONS), 5, 1, errs=True)
        page.get_by_role("link", name="Disagreements").click()
        page.get_by_text(DISPUTED).click()
        expect(page.get_by_role("columnheader", name="Reviewer 2 (you)")).to_be_visible()
        fill(page, dict.fromkeys("AB", 3))
        page.get_by_role("button", name="Store the final judgement").click()
        expect(page.get_by_role("alert")).to_contain_text("another reviewer makes")
        # The names of the versions in `drawn_item`.
        assert "version-" not in page.content()

    with opened(browser, stack, size, addresses[2], [EMPTY_QUEUE]) as page:
        page.get_by_role("link", name="Disagreements").click()
        expect(page.get_by_role("status")).to_contain_text("1 item, the most different")
        page.get_by_text(DISPUTED).click()
        expect(page.get_by_text("the other one is wrong")).to_be_visible()
        compared = page.get_by_role("table", name="Reviews side by side")
        right, wrong = letters(page, "right", "wrong")
        expect(row_of(compared, f"{right}: safety")).to_have_text(["4", "1", "3"])
        expect(row_of(compared, "Ranking")).to_have_text(
            [f"{right}, then {wrong}", f"{wrong}, then {right}", ""]
        )
        fill(page, {right: 5, wrong: 1}, best=right)
        page.get_by_role("button", name="Store the final judgement").click()
        # The form, which has the other status, is open until the call has returned.
        status = page.get_by_role("status").first
        expect(status).to_contain_text("The final judgement is stored. No item waits")
        expect(status).to_be_focused()

        page.get_by_role("link", name="Agreement", exact=True).click()
        expect(page.get_by_role("status")).to_have_text(
            "10 reviews of 5 items; no disagreement waits for a final judgement."
        )
        agreement = page.get_by_role("table", name="Agreement")
        for name in (*SCALES, "Ranking"):
            alpha, interval, units = row_of(agreement, name).all()
            expect(alpha).to_have_text(re.compile(r"^[01]\.\d\d$"))
            expect(interval).to_have_text(re.compile(r"^−?\d\.\d\d to \d\.\d\d$"))
            expect(units).to_have_text("10")


def row_of(table: Locator, name: str) -> Locator:
    """Return the cells of a row, without its header."""
    header = table.page.get_by_role("rowheader", name=name, exact=True)
    return table.get_by_role("row").filter(has=header).get_by_role("cell")


def test_item_on_a_phone_is_skipped_or_was_completed_by_others(
    stack: Stack, browser: Browser, owner: Caller
) -> None:
    item_ids = [add_item(stack, owner, "right", "wrong", "odd") for _ in range(2)]
    first, second, third = stack.make_keys("rater", 3, owner.tenant, SCOPES)
    others = [Client(stack.http, second), Client(stack.http, third)]
    refused = [EMPTY_QUEUE, (409, "")]
    with opened(browser, stack, SIZES["phone"], f"/#key={first}", refused) as page:
        page.get_by_label("Open the menu").click()
        page.get_by_role("link", name="Reviews").click()
        submit = page.get_by_role("button", name="Submit the review")
        submit.click()
        expect(page.get_by_role("alert")).to_contain_text("A review needs")
        page.get_by_role("button", name="Skip this item").click()
        expect(page.get_by_text("The item was skipped. 1 item left to judge.")).to_be_visible()

        option(page, "Clarity of Answer C", 5).check()
        for letter, place in {"A": 3, "B": 1, "C": 3}.items():
            option(page, f"Place of Answer {letter}", place).check()
        expect(page.get_by_text("Order: B, then A and C.")).to_be_visible()
        submit.click()
        expect(page.get_by_role("alert")).to_contain_text("Correctness of Answer A is missing")
        expect(page.get_by_role("alert")).to_be_focused()
        fill(page, dict.fromkeys("ABC", 3))
        for other in others:
            for item_id in item_ids:
                write_answer(other, item_id)
        submit.click()
        expect(page.get_by_role("alert")).to_contain_text("Other reviewers have completed")
        page.get_by_role("button", name="Continue").click()
        expect(page.get_by_role("heading", name="Nothing is left to judge")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def write_answer(client: Client, item_id: str) -> None:
    """Submit a review with a better answer and nothing else."""
    scores = [{"answerId": answer_id} for answer_id in "abc"]
    body = {"review": {"scores": scores, "writtenAnswer": "It is right."}}
    status, answer = client.call("POST", f"/api/reviews/{item_id}", body)
    assert status == 200, answer


def test_user_without_the_scope_gets_neither_link_nor_items(stack: Stack, browser: Browser) -> None:
    key = stack.make_keys("no-reviewer")[0]
    with opened(browser, stack, SIZES["desktop"], f"/#key={key}") as page:
        expect(page.get_by_role("link", name="Arena")).to_be_visible()
        expect(page.get_by_role("link", name="Reviews")).to_have_count(0)
        page.goto(f"{stack.http}/review.html")
        expect(page.get_by_role("alert")).to_contain_text("lacks the scope review")
