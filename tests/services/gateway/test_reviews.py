"""Reviewers over gRPC and HTTP, with the real review service behind the gateway."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import json_format
from thumbwheel.review.v1 import review_pb2

from services.chassis.errors import from_rpc
from services.chassis.identity import Caller
from services.gateway.identity.credential import ALL_SCOPES, DEFAULT_SCOPES, Scope
from services.gateway.metrics import GUARD_VERDICTS
from services.review.store.database import migrate
from tests.services.gateway.fakes import BAD_WORD, SECRET
from tests.services.gateway.gateway_under_test import ADA, GatewayUnderTest, new_key, run_gateway
from tests.services.review.service import (
    EVE,
    Home,
    Review,
    drawn_item,
    review_of,
    review_service,
)

CARL = Caller("acme", "carl")
ANSWERS = ("one", "two")
MISSING_ID = "01900000-0000-4000-8000-000000000000"
WAIT_SECONDS = 20


@dataclass
class Reviewers:
    """A gateway before the review service, with keys of reviewers by name.

    Ada, Bob and Carl are of one tenant; the namesake is the Ada of another one. The items have
    words of Ada.
    """

    gateway: GatewayUnderTest
    review: Review
    keys: dict[str, str]

    async def draw(self, *texts: str, **changes: Any) -> str:
        """Add an item, and return its id."""
        item = drawn_item(*(texts or ANSWERS), **changes)
        assert await self.review.add_items(item) == 1
        return str(item.item.item_id)

    async def get(self, path: str, user: str = "bob") -> tuple[int, Any]:
        return await self.call("GET", path, None, user)

    async def post(self, path: str, body: Any = None, user: str = "bob") -> tuple[int, Any]:
        return await self.call("POST", path, body, user)

    async def call(self, method: str, path: str, body: Any, user: str) -> tuple[int, Any]:
        """Send a request under /api/reviews; return status and body, or status and code."""
        async with self.gateway.http.request(
            method,
            f"{self.gateway.url}/api/reviews/{path}",
            json=body,
            headers=self.gateway.headers(self.keys[user]),
        ) as response:
            return response.status, await response.json()

    async def judge(self, user: str, *ranking: str, score: int = 4) -> str:
        """Judge the next item of a reviewer over HTTP, and return its id."""
        status, found = await self.get("next", user)
        assert status == 200, found
        item = json_format.ParseDict(found["item"], review_pb2.ReviewItem())
        body = review_body(item, *ranking, score=score)
        assert await self.post(item.item_id, body, user) == (200, {})
        return str(item.item_id)


def review_body(item: review_pb2.ReviewItem, *ranking: str, score: int = 4) -> dict[str, Any]:
    """Return the body of a review in protobuf's JSON."""
    return {"review": json_format.MessageToDict(review_of(item, *ranking, score=score))}


def code_of(answer: tuple[int, Any]) -> tuple[int, str, str | None]:
    """Return status, code and field of an error over HTTP."""
    return answer[0], answer[1]["error"]["code"], answer[1]["error"]["param"]


@pytest.fixture
async def reviewers(tmp_path: Path) -> AsyncIterator[Reviewers]:
    home = Home(tmp_path, f"sqlite+aiosqlite:///{tmp_path}/review.db")
    await migrate(home.database_url)
    async with (
        review_service(home, erasure_seconds=0.05) as review,
        run_gateway(tmp_path, review_target=review.target) as gateway,
    ):
        keys = {
            "ada": gateway.key,
            "bob": gateway.other_key,
            "carl": await new_key(gateway.store, CARL),
            "namesake": gateway.namesakes_key,
        }
        yield Reviewers(gateway, review, keys)


async def test_item_is_judged_by_two_reviewers_and_resolved_by_a_third(
    reviewers: Reviewers,
) -> None:
    """A judgement of a third reviewer that agrees with no other one leaves the item to a fourth."""
    item_id = await reviewers.draw("one", "two", "three")
    status, found = await reviewers.get("next")
    assert (status, found["item"]["itemId"], found["remaining"]) == (200, item_id, "1")
    assert set(found["item"]) == {"itemId", "context", "answers", "task"}
    assert {answer["text"] for answer in found["item"]["answers"]} == {"one", "two", "three"}
    assert found["item"]["context"] == [{"role": "ROLE_USER", "text": "a question"}]

    await reviewers.judge("bob", "one", "two", "three")
    # The same call returns the next item, of which none is left.
    assert code_of(await reviewers.get("next")) == (404, "no_item", None)
    await reviewers.judge("carl", "two", "three", "one")
    for name in ("dora", "eve"):
        reviewers.keys[name] = await new_key(reviewers.gateway.store, Caller("acme", name))
    await reviewers.judge("dora", "three", "one", "two")

    status, page = await reviewers.get("disagreements?page_size=5", "carl")
    assert (status, page["nextPageToken"]) == (200, "")
    (listed,) = page["disagreements"]
    assert listed["item"]["itemId"] == item_id
    assert [review["own"] for review in listed["reviews"]] == [False, True, False]
    status, page = await reviewers.get("disagreements", "eve")
    item = json_format.ParseDict(page["disagreements"][0]["item"], review_pb2.ReviewItem())
    final = review_body(item, "one", "two", "three")
    for _ in range(2):  # the same resolution can be sent again
        assert await reviewers.post(f"{item_id}/resolution", final, "eve") == (200, {})
    assert (await reviewers.get("disagreements"))[1]["disagreements"] == []
    (exported,) = (await reviewers.review.exported()).items
    assert (exported.complete, len(exported.raters)) == (True, 3)


async def test_skipped_item_is_left_to_others(reviewers: Reviewers) -> None:
    item_id = await reviewers.draw()
    assert await reviewers.post(f"{item_id}/skip") == (200, {})
    assert code_of(await reviewers.get("next")) == (404, "no_item", None)
    status, found = await reviewers.get("next", "carl")
    assert (status, found["item"]["itemId"]) == (200, item_id)


async def test_agreement_that_has_no_value_is_the_text_nan(reviewers: Reviewers) -> None:
    """JSON has no NaN; protobuf's JSON has a text in its place."""
    await reviewers.draw()
    url = f"{reviewers.gateway.url}/api/reviews/agreement"
    async with reviewers.gateway.http.get(url, headers=reviewers.gateway.headers()) as response:
        text = await response.text()

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    found = json.loads(text, parse_constant=refuse)
    assert (found["items"], found["reviews"], found["disagreements"]) == ("1", "0", "0")
    assert [one["scale"] for one in found["agreements"]] == [
        "correctness",
        "helpfulness",
        "clarity",
        "safety",
        "ranking",
    ]
    assert {one[name] for one in found["agreements"] for name in ("alpha", "low", "high")} == {
        "NaN"
    }


async def test_errors_of_the_review_service_reach_both_apis(reviewers: Reviewers) -> None:
    """Each error of the comments in review.proto, except UNAVAILABLE."""
    item_id = await reviewers.draw()
    await reviewers.draw(owner=(("x-tw-tenant", "umbrella"), ("x-tw-user", "ada")))
    item = await over_grpc(reviewers, "GetNextItem", review_pb2.GetNextItemRequest())
    good = review_of(item.item, "one", "two")
    too_high = review_of(item.item, "one", "two", score=6)
    gaps = review_of(item.item, "one", "two")
    gaps.ranks[0].rank = 7
    other = review_of(item.item, "two", "one")
    nothing = review_of(item.item, score=0)

    invalid, missing = "INVALID_ARGUMENT", ("NOT_FOUND", "NOT_FOUND", "item_id")
    assert [
        await outcome(reviewers, item_id, review)
        for review in (too_high, gaps, review_pb2.Review(), nothing)
    ] == [
        (invalid, invalid, "review.scores[0].correctness"),
        (invalid, invalid, "review.ranks"),
        (invalid, invalid, "review.scores"),
        (invalid, invalid, "review"),
    ]
    assert await outcome(reviewers, "x", good) == (invalid, invalid, "item_id")
    assert await outcome(reviewers, MISSING_ID, good) == missing
    assert await outcome(reviewers, item_id, good, "namesake") == missing
    assert await outcome(reviewers, item_id, good, "ada") == missing
    assert await outcome(reviewers, item_id, good) == ("OK", "", "")
    assert await outcome(reviewers, item_id, good) == ("OK", "", "")
    assert await outcome(reviewers, item_id, other) == (
        "ALREADY_EXISTS",
        "ITEM_HAS_REVIEW",
        "review",
    )
    condition = "FAILED_PRECONDITION"
    assert await outcome(reviewers, item_id, good, "carl", "ResolveDisagreement") == (
        condition,
        "NO_DISAGREEMENT",
        "item_id",
    )
    await reviewers.judge("carl", "one", "two")
    reviewers.keys["dora"] = await new_key(reviewers.gateway.store, Caller("acme", "dora"))
    assert await outcome(reviewers, item_id, good, "dora") == (condition, "ITEM_CLOSED", "item_id")
    skip = review_pb2.SkipItemRequest(item_id=MISSING_ID)
    assert await refusal(reviewers, "SkipItem", skip) == missing
    page = review_pb2.ListDisagreementsRequest(page_size=51)
    assert await refusal(reviewers, "ListDisagreements", page) == (invalid, invalid, "page_size")
    assert code_of(await reviewers.get("disagreements?page_size=51")) == (
        400,
        "invalid_argument",
        "page_size",
    )
    assert code_of(await reviewers.get("disagreements?page_size=-1"))[0] == 400


async def test_disagreement_is_resolved_once_and_by_another_reviewer(
    reviewers: Reviewers,
) -> None:
    item_id = await reviewers.draw("one", "two", "three")
    await reviewers.judge("bob", "one", "two", "three")
    await reviewers.judge("carl", "two", "three", "one")
    for name in ("dora", "eve", "fay"):
        reviewers.keys[name] = await new_key(reviewers.gateway.store, Caller("acme", name))
    await reviewers.judge("dora", "three", "one", "two")
    (listed,) = (await reviewers.review.disagreements(EVE)).disagreements
    method, final = "ResolveDisagreement", review_of(listed.item, score=0, written="Better.")
    own = await outcome(reviewers, item_id, final, "bob", method)
    assert own == ("FAILED_PRECONDITION", "OWN_REVIEW", "item_id")
    assert await outcome(reviewers, item_id, final, "eve", method) == ("OK", "", "")
    second = await outcome(reviewers, item_id, final, "fay", method)
    assert second == ("ALREADY_EXISTS", "ITEM_HAS_RESOLUTION", "item_id")


async def over_grpc(reviewers: Reviewers, method: str, request: Any, user: str = "bob") -> Any:
    call = getattr(reviewers.gateway.reviews, method)
    metadata = reviewers.gateway.metadata(reviewers.keys[user])
    return await call(request, timeout=20, metadata=metadata)


async def refusal(
    reviewers: Reviewers, method: str, request: Any, user: str = "bob"
) -> tuple[str, str, str]:
    """Return code, reason and field of a gRPC call; OK and empty texts of one that succeeds."""
    try:
        await over_grpc(reviewers, method, request, user)
    except grpc.aio.AioRpcError as error:
        ours = from_rpc(error, "gateway")
        return error.code().name, ours.reason, ours.field
    return "OK", "", ""


async def outcome(
    reviewers: Reviewers,
    item_id: str,
    review: review_pb2.Review,
    user: str = "bob",
    method: str = "SubmitReview",
) -> tuple[str, str, str]:
    """Send a review over gRPC and then over HTTP; the outcomes must be the same."""
    request = getattr(review_pb2, f"{method}Request")(item_id=item_id, review=review)
    found = await refusal(reviewers, method, request, user)
    path = item_id if method == "SubmitReview" else f"{item_id}/resolution"
    status, body = await reviewers.post(path, {"review": json_format.MessageToDict(review)}, user)
    if found[0] == "OK":
        assert (status, body) == (200, {})
    else:
        assert (body["error"]["code"].upper(), body["error"]["param"]) == (found[1], found[2])
    return found


@pytest.mark.parametrize("name", ["writtenAnswer", "comment"])
@pytest.mark.parametrize("word", [BAD_WORD, SECRET])
@pytest.mark.parametrize("path", ["", "/resolution"])
async def test_text_that_the_guard_rejects_is_not_stored(
    reviewers: Reviewers, name: str, word: str, path: str
) -> None:
    """A written answer becomes a training example, and a comment is read by other users."""
    item_id = await reviewers.draw()
    body = {"review": {"writtenAnswer": "Better.", name: f"Say {word}."}}
    before = verdicts()
    status, found = await reviewers.post(f"{item_id}{path}", body)
    error = found["error"]
    assert (status, error["code"]) == (400, "review_rejected")
    assert error["param"] == f"review.{name}"
    assert "no harmful content, secrets or personal data" in error["message"]
    assert word not in error["message"]
    assert verdicts() == before + 1
    assert not (await reviewers.review.exported()).items


def verdicts() -> float:
    """Return the number of rejected texts of reviews."""
    (metric,) = GUARD_VERDICTS.collect()
    return sum(
        sample.value
        for sample in metric.samples
        if sample.name.endswith("_total") and sample.labels["stage"] == "review"
    )


async def test_text_without_a_verdict_is_not_stored_and_scores_need_none(
    reviewers: Reviewers,
) -> None:
    item_id = await reviewers.draw("one")
    reviewers.gateway.fakes.guardrail.gives_verdicts = False
    for body in ({"writtenAnswer": "Better."}, {"comment": "Short."}):
        answer = await reviewers.post(item_id, {"review": body})
        assert code_of(answer)[:2] == (503, "guardrail_unavailable")
    assert not (await reviewers.review.exported()).items
    await reviewers.judge("bob")
    assert len((await reviewers.review.exported()).items) == 1


async def test_both_texts_are_judged_as_answer_and_as_request(reviewers: Reviewers) -> None:
    item_id = await reviewers.draw("one")
    review = {"scores": [{"answerId": "a"}], "writtenAnswer": "Better.", "comment": "Short."}
    assert await reviewers.post(item_id, {"review": review}) == (200, {})
    judged = [(check.prompt, check.pending) for check in reviewers.gateway.fakes.guardrail.outputs]
    assert judged == [("Better.", "Better."), ("Short.", "Short.")]


async def test_review_names_the_item_of_its_path(reviewers: Reviewers) -> None:
    item_id = await reviewers.draw("one")
    for path in (item_id, f"{item_id}/resolution"):
        body = {"itemId": MISSING_ID, "review": {"comment": "Short."}}
        assert code_of(await reviewers.post(path, body)) == (400, "invalid_argument", "itemId")


async def test_reviewers_of_two_tenants_share_nothing(reviewers: Reviewers) -> None:
    """The namesake in the other tenant sees only items of that tenant, also by id."""
    ours = await reviewers.draw("one")
    theirs = await reviewers.draw("two", owner=(("x-tw-tenant", "umbrella"), ("x-tw-user", "bob")))
    for user, visible, hidden in (("bob", ours, theirs), ("namesake", theirs, ours)):
        status, found = await reviewers.get("next", user)
        assert (status, found["item"]["itemId"], found["remaining"]) == (200, visible, "1")
        assert code_of(await reviewers.post(f"{hidden}/skip", user=user))[:2] == (404, "not_found")
    await reviewers.judge("bob")
    counts = {
        user: (await reviewers.get("agreement", user))[1]["reviews"]
        for user in ("carl", "namesake")
    }
    assert counts == {"carl": "1", "namesake": "0"}
    # Own words are never shown.
    assert code_of(await reviewers.get("next", "ada")) == (404, "no_item", None)


async def test_erasure_of_user_and_reviewer_removes_item_and_review(
    reviewers: Reviewers,
) -> None:
    item_id = await reviewers.draw("one")
    other_id = await reviewers.draw("two", owner=(("x-tw-tenant", "acme"), ("x-tw-user", "eve")))
    judged = {await reviewers.judge("bob") for _ in range(2)}
    assert judged == {item_id, other_id}
    reviewers.review.peers.feedback.erase((("x-tw-tenant", "acme"), ("x-tw-user", "ada")), 1)
    await until_reviews(reviewers, {other_id: 1})
    body = {"review": {"writtenAnswer": "Better."}}
    assert code_of(await reviewers.post(item_id, body, "carl")) == (404, "not_found", "item_id")
    reviewers.review.peers.feedback.erase((("x-tw-tenant", "acme"), ("x-tw-user", "bob")), 2)
    await until_reviews(reviewers, {})
    assert (await reviewers.get("agreement"))[1]["reviews"] == "0"
    # The item of the user who remains is judged again.
    assert (await reviewers.get("next"))[1]["item"]["itemId"] == other_id


async def until_reviews(reviewers: Reviewers, expected: dict[str, int]) -> None:
    """Wait until the export has these numbers of reviews by item."""
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            items = (await reviewers.review.exported()).items
            if {one.item.item.item_id: len(one.reviews) for one in items} == expected:
                return
            await asyncio.sleep(0.05)


async def test_calls_need_the_scope_review_and_no_other(reviewers: Reviewers) -> None:
    calls = [
        ("GET", "next", "GetNextItem"),
        ("POST", MISSING_ID, "SubmitReview"),
        ("POST", f"{MISSING_ID}/skip", "SkipItem"),
        ("GET", "disagreements", "ListDisagreements"),
        ("POST", f"{MISSING_ID}/resolution", "ResolveDisagreement"),
        ("GET", "agreement", "GetAgreement"),
    ]
    keys = {
        "usual": DEFAULT_SCOPES,
        "others": ALL_SCOPES - {Scope.REVIEW},
        "only": frozenset({Scope.REVIEW}),
    }
    for name, scopes in keys.items():
        reviewers.keys[name] = await new_key(reviewers.gateway.store, ADA, scopes=scopes)
    for method, path, rpc in calls:
        request = getattr(review_pb2, f"{rpc}Request")()
        body = {} if method == "POST" else None
        for name in ("usual", "others"):
            found = await refusal(reviewers, rpc, request, name)
            assert found == ("PERMISSION_DENIED", "SCOPE_MISSING", "authorization")
            answer = await reviewers.call(method, path, body, name)
            assert code_of(answer) == (403, "scope_missing", "authorization")
        assert (await refusal(reviewers, rpc, request, "only"))[0] != "PERMISSION_DENIED"
        assert (await reviewers.call(method, path, body, "only"))[0] != 403


async def test_reviews_count_as_feedback_events(tmp_path: Path) -> None:
    async with run_gateway(tmp_path, user_feedback_per_minute=2) as gateway:
        item_id = gateway.fakes.reviews.add(ADA)
        headers = gateway.headers(gateway.other_key)
        statuses = []
        for path in ("", "/resolution", "", "/skip"):
            url = f"{gateway.url}/api/reviews/{item_id}{path}"
            body = {"review": {"writtenAnswer": "Better."}}
            async with gateway.http.post(url, json=body, headers=headers) as response:
                statuses.append((response.status, (await response.json()).get("error")))
        codes = [(status, error["code"] if error else "") for status, error in statuses]
    assert codes == [(200, ""), (200, ""), (429, "feedback_rate_limited"), (200, "")]
    # Reading and skipping are no feedback, and the guard was not asked for the refused review.
    assert len(gateway.fakes.guardrail.outputs) == 2


async def test_unavailable_review_service_is_reported(gateway: GatewayUnderTest) -> None:
    gateway.fakes.reviews.away = True
    async with gateway.http.get(
        f"{gateway.url}/api/reviews/next", headers=gateway.headers()
    ) as response:
        error = (await response.json())["error"]
    assert (response.status, error["type"]) == (503, "unavailable_error")
