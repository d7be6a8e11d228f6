"""The review service with its real wiring on a real port, and fakes of the services it calls."""

import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc
from thumbwheel.chat.v1 import chat_pb2
from thumbwheel.feedback.v1 import events_pb2, feedback_pb2, feedback_pb2_grpc
from thumbwheel.generator.v1 import generator_pb2, generator_pb2_grpc
from thumbwheel.guardrail.v1 import guardrail_pb2
from thumbwheel.review.v1 import (
    appeal_pb2,
    appeal_pb2_grpc,
    arena_pb2,
    arena_pb2_grpc,
    review_pb2,
    review_pb2_grpc,
)
from thumbwheel.session.v1 import session_pb2, session_pb2_grpc
from uuid_utils import uuid7

from services.chassis.channel import open_channel
from services.chassis.errors import from_rpc
from services.chassis.identity import Caller
from services.chassis.server import Registration, serving
from services.chassis.settings import ServiceSettings
from services.contracts.identifiers import principal_of
from services.contracts.wire import now_us, timestamp
from services.review.__main__ import wiring
from services.review.settings import ReviewSettings

ADA = (("x-tw-tenant", "acme"), ("x-tw-user", "ada"))
BOB = (("x-tw-tenant", "acme"), ("x-tw-user", "bob"))
CARL = (("x-tw-tenant", "acme"), ("x-tw-user", "carl"))
DORA = (("x-tw-tenant", "acme"), ("x-tw-user", "dora"))
EVE = (("x-tw-tenant", "acme"), ("x-tw-user", "eve"))
OTHER_ADA = (("x-tw-tenant", "umbrella"), ("x-tw-user", "ada"))
PRINCIPAL_KEY = "a key for tests only"
MODELS = ("alder-1", "birch-2")
BLOCKED_REASONS = (
    chat_pb2.FINISH_REASON_INPUT_BLOCKED,
    chat_pb2.FINISH_REASON_OUTPUT_BLOCKED,
)
BLOCK = guardrail_pb2.Verdict(
    action=guardrail_pb2.ACTION_BLOCK, category="violence", score=0.75, policy_version="policy-1"
)
UNKNOWN_ID = "01900000-0000-4000-8000-000000000000"


@dataclass
class FakeSession:
    """Fake of session's GetMessage: messages by id, each with its tenant and user."""

    messages: dict[str, tuple[Caller, chat_pb2.Message]] = field(default_factory=dict)

    async def GetMessage(self, request: Any, context: Any) -> session_pb2.GetMessageResponse:
        found = self.messages.get(request.message_id)
        if found is None or found[0] != caller_of(context):
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such message")
        is_blocked = found[1].finish_reason in BLOCKED_REASONS
        return session_pb2.GetMessageResponse(message=found[1], block=BLOCK if is_blocked else None)

    def blocked(self, text: str, owner: Any = ADA, **fields: Any) -> str:
        """Store a question and its refused answer; return the id of the answer."""
        question_id = self.answer("", "", text, owner=owner, role=chat_pb2.ROLE_USER, arm="")
        finish = fields.pop("finish_reason", chat_pb2.FINISH_REASON_INPUT_BLOCKED)
        values = {"owner": owner, "arm": "", "finish_reason": finish}
        return self.answer(question_id, "", "I cannot help with that.", **values | fields)

    def answer(self, parent_id: str, model: str, text: str, **fields: Any) -> str:
        """Store an answer of Ada that is a minute old; return its id."""
        message = chat_pb2.Message(
            id=str(uuid7()),
            conversation_id=fields.pop("conversation_id", UNKNOWN_ID),
            parent_id=parent_id,
            role=fields.pop("role", chat_pb2.ROLE_ASSISTANT),
            text=text,
            model_version=model,
            arm=fields.pop("arm", "battle"),
            finish_reason=fields.pop("finish_reason", chat_pb2.FINISH_REASON_STOP),
            create_time=timestamp(now_us() - int(fields.pop("age_seconds", 10.0) * 1e6)),
            task=fields.pop("task", chat_pb2.TASK_CODE),
        )
        tenant, user = (value for _, value in fields.pop("owner", ADA))
        assert not fields
        self.messages[message.id] = Caller(tenant, user), message
        return message.id


@dataclass
class FakeGenerator:
    """Fake of the generator's GetRollout: stable version, candidate, external models."""

    stable: str = MODELS[0]
    candidate: str = MODELS[1]
    candidate_state: int = generator_pb2.VERSION_STATE_READY
    is_down: bool = False
    external: list[generator_pb2.ExternalModel] = field(default_factory=list)
    calls: int = 0

    async def GetRollout(self, request: Any, context: Any) -> generator_pb2.GetRolloutResponse:
        self.calls += 1
        if self.is_down:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "down")
        served = generator_pb2.ServedVersion
        found = generator_pb2.GetRolloutResponse(
            stable=served(version=self.stable, state=generator_pb2.VERSION_STATE_READY),
            external_models=self.external,
        )
        if self.candidate:
            candidate = served(version=self.candidate, state=self.candidate_state)
            found.candidate.CopyFrom(candidate)
        return found


@dataclass
class FakeFeedback:
    """Fake of feedback's RecordFeedback with its checks of the principal and of erasures.

    Each entry of `failures` fails a call with its code; "after" fails it after the write.
    """

    events: list[events_pb2.FeedbackEvent] = field(default_factory=list)
    failures: list[grpc.StatusCode | str] = field(default_factory=list)
    erased: list[feedback_pb2.ErasedPrincipal] = field(default_factory=list)

    async def ListErasures(self, request: Any, context: Any) -> Any:
        assert "x-tw-user" not in dict(context.invocation_metadata())
        later = [entry for entry in self.erased if entry.number > request.after_number]
        # Pages of one entry.
        return feedback_pb2.ListErasuresResponse(erasures=later[:1])

    def erase(self, caller: Any, number: int, age_seconds: float = 0.0) -> None:
        """Add a user to the list of erasures."""
        tenant, user = (value for _, value in caller)
        time = timestamp(now_us() - int(age_seconds * 1e6))
        self.erased.append(
            feedback_pb2.ErasedPrincipal(
                number=number,
                principal=principal_of(PRINCIPAL_KEY, Caller(tenant, user)),
                erasure=feedback_pb2.Erasure(shred_time=time),
            )
        )

    async def RecordFeedback(self, request: Any, context: Any) -> Any:
        failure = self.failures.pop(0) if self.failures else ""
        if isinstance(failure, grpc.StatusCode):
            await context.abort(failure, "failed")
        giver = request.event.rater or request.event.principal
        if giver != principal_of(PRINCIPAL_KEY, caller_of(context)):
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "another principal")
        # As in the feedback service: a call that was on its way during the erasure.
        accepted_us = request.event.accept_time.ToMicroseconds()
        if not any(
            entry.principal in (request.event.principal, request.event.rater)
            and accepted_us <= entry.erasure.shred_time.ToMicroseconds()
            for entry in self.erased
        ):
            self.events.append(request.event)
        if failure == "after":
            await context.abort(grpc.StatusCode.UNAVAILABLE, "down after the write")
        return feedback_pb2.RecordFeedbackResponse(durability=feedback_pb2.DURABILITY_SPOOL)


@dataclass
class Peers:
    """Fakes of the three called services."""

    session: FakeSession = field(default_factory=FakeSession)
    generator: FakeGenerator = field(default_factory=FakeGenerator)
    feedback: FakeFeedback = field(default_factory=FakeFeedback)


def caller_of(context: Any) -> Caller:
    found = dict(context.invocation_metadata())
    return Caller(found["x-tw-tenant"], found["x-tw-user"])


@dataclass(frozen=True)
class Home:
    """Folder for files and URL of the database of a test."""

    directory: Path
    database_url: str


def review_settings(home: Home, port: int, **changes: Any) -> ReviewSettings:
    values = {
        "port": 0,
        "metrics_port": 0,
        "drain_seconds": 0,
        "lame_duck_seconds": 0,
        "database_url": home.database_url,
        # A busy disk has taken longer than the default for a sync, but no call waits for 10 s.
        "database_wait_seconds": 9.0,
        "principal_key": PRINCIPAL_KEY,
        "relay_poll_seconds": 0.05,
        "relay_max_backoff_seconds": 0.1,
        "relay_refused_seconds": 0.1,
        **{f"{peer}_target": f"127.0.0.1:{port}" for peer in ("session", "generator", "feedback")},
    }
    return ReviewSettings.model_validate(values | changes)


@dataclass(frozen=True)
class Review:
    """Stubs of the service at an address, and the fakes behind it."""

    arena: Any
    models: Any
    reviews: Any
    items: Any
    peers: Peers
    appeals: Any
    target: str = ""

    async def create(self, request_id: str = "", caller: Any = ADA) -> arena_pb2.Battle:
        request = arena_pb2.CreateBattleRequest(request_id=request_id or uuid.uuid4().hex)
        return (await self.arena.CreateBattle(request, timeout=10, metadata=caller)).battle

    async def version(self, model: str, caller: Any = ADA) -> str:
        request = arena_pb2.ResolveBattleModelRequest(model=model)
        found = await self.models.ResolveBattleModel(request, timeout=10, metadata=caller)
        return str(found.model_version)

    async def get(self, battle_id: str, caller: Any = ADA) -> arena_pb2.Battle:
        request = arena_pb2.GetBattleRequest(battle_id=battle_id)
        return (await self.arena.GetBattle(request, timeout=10, metadata=caller)).battle

    async def answers(
        self, battle: arena_pb2.Battle, texts: Any = ("one", "two"), **fields: Any
    ) -> list[str]:
        """Store the two answers of a battle, and return their ids."""
        parent_id, caller = str(uuid.uuid4()), fields.get("owner", ADA)
        return [
            self.peers.session.answer(parent_id, await self.version(model, caller), text, **fields)
            for model, text in zip(battle.models, texts, strict=True)
        ]

    async def vote(
        self, battle_id: str, ids: Any, outcome: Any = arena_pb2.OUTCOME_FIRST, caller: Any = ADA
    ) -> arena_pb2.Battle:
        request = arena_pb2.VoteBattleRequest(battle_id=battle_id, message_ids=ids, outcome=outcome)
        return (await self.arena.VoteBattle(request, timeout=10, metadata=caller)).battle

    async def whole_battle(
        self, outcome: Any = arena_pb2.OUTCOME_FIRST, caller: Any = ADA, **fields: Any
    ) -> arena_pb2.Battle:
        """Create a battle, store its answers, and vote."""
        battle = await self.create(caller=caller)
        ids = await self.answers(battle, owner=caller, **fields)
        return await self.vote(battle.battle_id, ids, outcome, caller)

    async def add_items(self, *items: review_pb2.DrawnItem) -> int:
        request = review_pb2.AddItemsRequest(items=items)
        return int((await self.items.AddItems(request, timeout=10)).added)

    async def appeal(
        self, message_id: str, reason: str = "", caller: Any = ADA
    ) -> appeal_pb2.Appeal:
        request = appeal_pb2.SubmitAppealRequest(message_id=message_id, reason=reason)
        return (await self.appeals.SubmitAppeal(request, timeout=10, metadata=caller)).appeal

    async def appeals_of(self, caller: Any) -> list[appeal_pb2.Appeal]:
        request = appeal_pb2.ListAppealsRequest()
        found = await self.appeals.ListAppeals(request, timeout=10, metadata=caller)
        return list(found.appeals)

    async def decide(self, caller: Any, *, wrong: bool) -> str:
        """Decide the caller's next item, an appeal; return the id of the item."""
        item = await self.next_item(caller)
        await self.submit(caller, item.item_id, decision(item, wrong=wrong))
        return str(item.item_id)

    async def next_item(self, caller: Any) -> review_pb2.ReviewItem:
        request = review_pb2.GetNextItemRequest()
        return (await self.reviews.GetNextItem(request, timeout=10, metadata=caller)).item

    async def submit(self, caller: Any, item_id: str, given: review_pb2.Review) -> None:
        request = review_pb2.SubmitReviewRequest(item_id=item_id, review=given)
        await self.reviews.SubmitReview(request, timeout=10, metadata=caller)

    async def resolve(self, caller: Any, item_id: str, given: review_pb2.Review) -> None:
        request = review_pb2.ResolveDisagreementRequest(item_id=item_id, review=given)
        await self.reviews.ResolveDisagreement(request, timeout=10, metadata=caller)

    async def judge(self, caller: Any, *ranking: str, score: int = 4, written: str = "") -> str:
        """Judge the caller's next item; return its id.

        Args:
            caller: metadata.
            ranking: texts of the answers, the best first; empty for no ranking.
            score: of all answers on all scales.
            written: better answer.
        """
        item = await self.next_item(caller)
        await self.submit(
            caller, item.item_id, review_of(item, *ranking, score=score, written=written)
        )
        return str(item.item_id)

    async def disagreements(
        self, caller: Any, page_size: int = 0, token: str = ""
    ) -> review_pb2.ListDisagreementsResponse:
        request = review_pb2.ListDisagreementsRequest(page_size=page_size, page_token=token)
        return await self.reviews.ListDisagreements(request, timeout=10, metadata=caller)

    async def exported(self, page_size: int = 0, token: str = "") -> review_pb2.ListReviewsResponse:
        request = review_pb2.ListReviewsRequest(page_size=page_size, page_token=token)
        return await self.items.ListReviews(request, timeout=10)

    async def agreement(self, caller: Any) -> review_pb2.GetAgreementResponse:
        request = review_pb2.GetAgreementRequest()
        return await self.reviews.GetAgreement(request, timeout=10, metadata=caller)


def principal(caller: Any) -> str:
    """Return the pseudonym of a caller."""
    tenant, user = (value for _, value in caller)
    return principal_of(PRINCIPAL_KEY, Caller(tenant, user))


def drawn_item(*texts: str, owner: Any = ADA, **changes: Any) -> review_pb2.DrawnItem:
    """Return an item; users saw the first answer, and the last one has no message id."""
    texts = texts or ("one", "two")
    ids = [str(uuid.uuid4()) for _ in texts]
    values: dict[str, Any] = {
        "item": review_pb2.ReviewItem(
            item_id=str(uuid.uuid4()),
            context=[chat_pb2.HistoryMessage(role=chat_pb2.ROLE_USER, text="a question")],
            answers=[
                review_pb2.ReviewAnswer(answer_id=answer_id, text=text)
                for answer_id, text in zip("abcdef", texts, strict=False)
            ],
            task=chat_pb2.TASK_CODE,
        ),
        "tenant": dict(owner)["x-tw-tenant"],
        "principal": principal(owner),
        "conversation_id": UNKNOWN_ID,
        "message_id": ids[0],
        "model_versions": [f"version-{number}" for number in range(len(texts))],
        "message_ids": [*ids[:-1], ""] if len(ids) > 1 else ids,
        "arm": "stable",
        "rule": review_pb2.DRAW_RULE_RANDOM,
    }
    return review_pb2.DrawnItem(**values | changes)


def review_of(
    item: review_pb2.ReviewItem, *ranking: str, score: int = 4, written: str = ""
) -> review_pb2.Review:
    """Return a review of an item as `Review.judge` submits it."""
    scales = {"correctness": score, "helpfulness": score, "clarity": score, "safety": score}
    given = review_pb2.Review(written_answer=written)
    for answer in item.answers:
        given.scores.add(answer_id=answer.answer_id, **scales)
        if ranking:
            given.ranks.add(answer_id=answer.answer_id, rank=1 + ranking.index(answer.text))
    return given


def decision(item: review_pb2.ReviewItem, *, wrong: bool) -> review_pb2.Review:
    """Return a review of an appeal."""
    given = review_of(item, score=0)
    given.block_decision = (
        review_pb2.BLOCK_DECISION_WRONG if wrong else review_pb2.BLOCK_DECISION_RIGHT
    )
    return given


@asynccontextmanager
async def peer_services(peers: Peers) -> AsyncIterator[int]:
    """Run the fakes on one port."""
    registrations = [
        Registration("thumbwheel.session.v1.SessionService", add, servicer)
        for add, servicer in (
            (session_pb2_grpc.add_SessionServiceServicer_to_server, _Padded(peers.session)),
            (generator_pb2_grpc.add_RolloutServiceServicer_to_server, _Padded(peers.generator)),
            (feedback_pb2_grpc.add_FeedbackLogServiceServicer_to_server, _Padded(peers.feedback)),
        )
    ]
    settings = ServiceSettings.model_validate(
        {"port": 0, "drain_seconds": 0, "lame_duck_seconds": 0}
    )
    async with serving(settings, registrations) as port:
        yield port


class _Padded:
    """Servicer whose methods are those of a fake; all others are absent."""

    def __init__(self, fake: Any) -> None:
        self._fake = fake

    def __getattr__(self, name: str) -> Any:
        return getattr(self._fake, name, None)


@asynccontextmanager
async def review_service(
    home: Home, peers: Peers | None = None, **changes: Any
) -> AsyncIterator[Review]:
    """Run the service and yield its stubs."""
    found = peers or Peers()
    async with AsyncExitStack() as stack:
        port = await stack.enter_async_context(peer_services(found))
        settings = review_settings(home, port, **changes)
        registrations = await stack.enter_async_context(wiring(settings))
        bound = await stack.enter_async_context(serving(settings, registrations))
        target = f"127.0.0.1:{bound}"
        channel = await stack.enter_async_context(open_channel(target))
        yield replace(review_stubs(channel, found), target=target)


def review_stubs(channel: grpc.aio.Channel, peers: Peers) -> Review:
    """Return the stubs of a running service."""
    return Review(
        arena_pb2_grpc.ArenaServiceStub(channel),
        arena_pb2_grpc.BattleModelServiceStub(channel),
        review_pb2_grpc.ReviewServiceStub(channel),
        review_pb2_grpc.ReviewItemServiceStub(channel),
        peers,
        appeal_pb2_grpc.AppealServiceStub(channel),
    )


async def error_of(call: Any) -> tuple[str, str, str]:
    """Return code, reason and field of a failing call."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        ours = from_rpc(error, "review")
        return error.code().name, ours.reason, ours.field
    raise AssertionError("the call succeeded")
