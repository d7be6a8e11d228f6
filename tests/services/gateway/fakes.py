"""Fakes of the six services behind the gateway, over real gRPC, in one process and on one port.

They fulfil the contract of the protocol (ownership, idempotency, held text). Keywords in the texts
control their decisions.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from thumbwheel.chat.v1 import chat_pb2
from thumbwheel.enhancer.v1 import enhancer_pb2, enhancer_pb2_grpc
from thumbwheel.feedback.v1 import events_pb2, feedback_pb2, feedback_pb2_grpc
from thumbwheel.generator.v1 import generator_pb2, generator_pb2_grpc, sample_pb2
from thumbwheel.guardrail.v1 import guardrail_pb2, guardrail_pb2_grpc
from thumbwheel.review.v1 import appeal_pb2_grpc, arena_pb2, arena_pb2_grpc, review_pb2_grpc
from thumbwheel.session.v1 import session_pb2, session_pb2_grpc

from services.chassis.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    ServiceError,
    UnavailableError,
)
from services.chassis.identity import require_caller
from services.chassis.server import Registration, serving
from services.chassis.settings import ServiceSettings
from services.contracts.limits import ConversationLimitError
from tests.services.gateway.fake_reviews import FakeAppeals, FakeReviews

FORBIDDEN, BAD_WORD, SECRET = "FORBIDDEN", "BADWORD", "SECRET"
POLICY_VERSION = "policy-1"
STABLE, CANDIDATE = "nano-1", "nano-2"
# Sample of the four deltas, with numbers used nowhere else.
SAMPLE = sample_pb2.Sample(
    token_ids=range(900_000_001, 900_000_005), log_probs=[-0.125, -0.25, -0.5, -1]
)


class FaultSwitch:
    """Makes a fake service unavailable on request."""

    def __init__(self) -> None:
        self.away = False

    def check(self) -> None:
        if self.away:
            raise UnavailableError("unavailable on request", reason="AWAY")


class FakeGuardrail(guardrail_pb2_grpc.GuardrailServiceServicer, FaultSwitch):
    """Blocks FORBIDDEN and BADWORD, redacts SECRET, and holds the last characters until the end."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs: list[list[str]] = []
        self.roles: list[list[chat_pb2.Role.ValueType]] = []
        self.outputs: list[guardrail_pb2.CheckOutputRequest] = []
        self.held_characters = 0
        self.gives_verdicts = True
        self.policy_version = POLICY_VERSION
        self.before_verdict: Callable[[], Any] | None = None
        self.forbidden = FORBIDDEN

    async def CheckInput(self, request: Any, context: Any) -> guardrail_pb2.CheckInputResponse:
        self.check()
        self.inputs.append(list(request.texts))
        self.roles.append(list(request.roles))
        blocked = any(self.forbidden in text for text in request.texts)
        return guardrail_pb2.CheckInputResponse(
            verdict=self._verdict(
                "block" if blocked else "allow", "harmful_intent" if blocked else ""
            ),
            rejection_text="I cannot help with that." if blocked else "",
        )

    async def CheckOutput(self, request: Any, context: Any) -> guardrail_pb2.CheckOutputResponse:
        self.outputs.append(request)
        if self.before_verdict:
            await self.before_verdict()
        self.check()
        if BAD_WORD in request.pending:
            release = request.pending.split(BAD_WORD)[0]
            verdict = self._verdict("block", "harmful_content")
            return guardrail_pb2.CheckOutputResponse(
                verdict=verdict, rejection_text="I stop here.", release=""
            )
        held = 0 if request.final else min(self.held_characters, len(request.pending))
        release = request.pending[: len(request.pending) - held]
        redacts = SECRET in release
        return guardrail_pb2.CheckOutputResponse(
            verdict=self._verdict("redact" if redacts else "allow", "secret" if redacts else ""),
            release=release.replace(SECRET, "[removed]"),
            held_characters=held,
        )

    async def CheckOutputs(self, request: Any, context: Any) -> guardrail_pb2.CheckOutputsResponse:
        results = await asyncio.gather(
            *(self.CheckOutput(check, context) for check in request.checks)
        )
        return guardrail_pb2.CheckOutputsResponse(results=results)

    def _verdict(self, action: str, category: str) -> guardrail_pb2.Verdict:
        if not self.gives_verdicts:
            return guardrail_pb2.Verdict()
        number = guardrail_pb2.Action.Value(f"ACTION_{action.upper()}")
        return guardrail_pb2.Verdict(
            action=number, category=category, score=1, policy_version=self.policy_version
        )


class FakeEnhancer(enhancer_pb2_grpc.EnhancerServiceServicer, FaultSwitch):
    """Enhancer that corrects a single word."""

    def __init__(self) -> None:
        super().__init__()
        self.before_answer: Callable[[], Any] | None = None

    async def Enhance(self, request: Any, context: Any) -> enhancer_pb2.EnhanceResponse:
        self.check()
        if self.before_answer:
            await self.before_answer()
        edits = []
        if (start := request.text.find("hw ")) >= 0:
            edits.append(
                chat_pb2.TextEdit(
                    start=start, end=start + 2, replacement="how", kind="abbreviation"
                )
            )
        return enhancer_pb2.EnhanceResponse(text=request.text.replace("hw ", "how "), edits=edits)


class FakeSession(session_pb2_grpc.SessionServiceServicer, FaultSwitch):
    """Conversations in memory, separated by owner."""

    def __init__(self) -> None:
        super().__init__()
        self.conversations: dict[str, str] = {}
        self.is_earlier_release = False
        self.messages: dict[str, chat_pb2.Message] = {}
        self.requests: dict[tuple[str, str], tuple[bytes, session_pb2.BeginTurnResponse]] = {}
        self.finished: dict[str, session_pb2.FinishTurnRequest] = {}
        self.away_at_finish = 0
        self.lost_begins = 0
        self.full = ""
        # Error of the next turns, as of a context that is too small.
        self.refusal: ServiceError | None = None
        # A system message of the installation, which no client sent.
        self.instructions = ""

    async def BeginTurn(self, request: Any, context: Any) -> session_pb2.BeginTurnResponse:
        self.check()
        if self.full and not request.client_keeps_conversation:
            raise ConversationLimitError("no further conversation", limit=self.full)
        if self.refusal:
            raise self.refusal
        key = (require_caller().key, request.request_id)
        payload = request.SerializeToString(deterministic=True)
        if request.request_id and key in self.requests:
            if self.requests[key][0] != payload:
                raise AlreadyExistsError("another payload", field="request_id")
            replay = session_pb2.BeginTurnResponse()
            replay.CopyFrom(self.requests[key][1])
            replay.replayed = True
            return replay
        response = self._begin(request)
        self.requests[key] = (payload, response)
        if self.lost_begins:
            self.lost_begins -= 1
            raise UnavailableError("stored, reply lost on request", reason="AWAY")
        return response

    def _begin(self, request: Any) -> session_pb2.BeginTurnResponse:
        if request.WhichOneof("action") == "regenerate_message_id":
            asked = self._own_message(request.regenerate_message_id)
            user = asked if asked.role == chat_pb2.ROLE_USER else self._own_message(asked.parent_id)
        else:
            conversation_id = self._conversation(request.conversation_id)
            user = chat_pb2.Message(
                id=_id(),
                conversation_id=conversation_id,
                role=chat_pb2.ROLE_USER,
                text=request.user.text,
                original_text=request.user.original_text,
                edits=request.user.edits,
            )
        answer = chat_pb2.Message(
            id=_id(),
            conversation_id=user.conversation_id,
            parent_id=user.id,
            role=chat_pb2.ROLE_ASSISTANT,
        )
        self.messages |= {user.id: user, answer.id: answer}
        context = [
            session_pb2.ContextMessage(role=entry.role, text=entry.text)
            for entry in request.history
        ]
        if self.instructions:
            context.insert(
                0, session_pb2.ContextMessage(role=chat_pb2.ROLE_SYSTEM, text=self.instructions)
            )
        context.append(session_pb2.ContextMessage(role=chat_pb2.ROLE_USER, text=user.text))
        return session_pb2.BeginTurnResponse(
            conversation_id=user.conversation_id,
            user_message_id=user.id,
            assistant_message_id=answer.id,
            context=context,
        )

    async def FinishTurn(self, request: Any, context: Any) -> session_pb2.FinishTurnResponse:
        self.check()
        if self.away_at_finish:
            self.away_at_finish -= 1
            raise UnavailableError("unavailable on request", reason="AWAY")
        message = self._own_message(request.assistant_message_id)
        if message.finish_reason and message.text != request.text:
            raise FailedPreconditionError("finished with another text")
        message.text, message.finish_reason = request.text, request.finish_reason
        message.model_version, message.arm = request.model_version, request.arm
        self.finished[message.id] = request
        return session_pb2.FinishTurnResponse()

    async def GetMessage(self, request: Any, context: Any) -> session_pb2.GetMessageResponse:
        self.check()
        message = self._own_message(request.message_id)
        response = session_pb2.GetMessageResponse(message=message)
        if message.role == chat_pb2.ROLE_ASSISTANT and not self.is_earlier_release:
            response.question_enhanced = bool(self.messages[message.parent_id].edits)
        return response

    async def GetConversation(
        self, request: Any, context: Any
    ) -> session_pb2.GetConversationResponse:
        if request.page_token and not request.page_token.isdigit():
            raise InvalidArgumentError("invalid token", field="page_token")
        conversation_id = self._conversation(request.conversation_id)
        messages = [
            message
            for message in self.messages.values()
            if message.conversation_id == conversation_id
        ]
        end = int(request.page_token or len(messages))
        start = max(0, end - (request.page_size or 50))
        conversation = chat_pb2.Conversation(id=conversation_id, title="a title")
        return session_pb2.GetConversationResponse(
            conversation=conversation,
            messages=messages[start:end],
            next_page_token=f"{start}" if start else "",
        )

    async def ListConversations(
        self, request: Any, context: Any
    ) -> session_pb2.ListConversationsResponse:
        owner = require_caller().key
        own = [
            chat_pb2.Conversation(id=found)
            for found, user in self.conversations.items()
            if user == owner
        ]
        return session_pb2.ListConversationsResponse(conversations=own[: request.page_size or 50])

    async def ClearConversation(
        self, request: Any, context: Any
    ) -> session_pb2.ClearConversationResponse:
        conversation_id = self._conversation(request.conversation_id)
        for message in [
            found for found in self.messages.values() if found.conversation_id == conversation_id
        ]:
            del self.messages[message.id]
        return session_pb2.ClearConversationResponse()

    async def DeleteConversation(
        self, request: Any, context: Any
    ) -> session_pb2.DeleteConversationResponse:
        del self.conversations[self._conversation(request.conversation_id)]
        return session_pb2.DeleteConversationResponse()

    async def EraseUser(self, request: Any, context: Any) -> session_pb2.EraseUserResponse:
        self.check()
        owner = require_caller().key
        own = [found for found, user in self.conversations.items() if user == owner]
        for conversation_id in own:
            del self.conversations[conversation_id]
        return session_pb2.EraseUserResponse(removed_conversations=len(own))

    def _conversation(self, conversation_id: str) -> str:
        owner = require_caller().key
        if not conversation_id:
            conversation_id = _id()
            self.conversations[conversation_id] = owner
        if self.conversations.get(conversation_id) != owner:
            raise NotFoundError("there is no such conversation", field="conversation_id")
        return conversation_id

    def _own_message(self, message_id: str) -> chat_pb2.Message:
        message = self.messages.get(message_id)
        if (
            message is None
            or self.conversations.get(message.conversation_id) != require_caller().key
        ):
            raise NotFoundError("there is no such message", field="message_id")
        return message


class FakeGenerator(
    generator_pb2_grpc.GeneratorServiceServicer,
    generator_pb2_grpc.RolloutServiceServicer,
    FaultSwitch,
):
    """Generator that answers with `deltas` and awaits `gate` before each."""

    def __init__(self) -> None:
        super().__init__()
        self.deltas = ["The ", "answer ", "is ", "42."]
        self.requests: list[generator_pb2.GenerateRequest] = []
        self.users: list[str] = []
        self.traces: list[str] = []
        self.cancelled = asyncio.Event()
        self.gate: Callable[[int], Any] | None = None
        self.breaks_after: int | None = None
        self.finish_reason = chat_pb2.FINISH_REASON_STOP
        self.sample: sample_pb2.Sample | None = SAMPLE
        self.stable, self.candidate, self.watched = STABLE, CANDIDATE, ""
        self.external: list[generator_pb2.ExternalModel] = []

    async def Generate(
        self, request: Any, context: Any
    ) -> AsyncIterator[generator_pb2.GenerateEvent]:
        self.check()
        self.requests.append(request)
        self.users.append(require_caller().key)
        self.traces += [
            str(value) for key, value in context.invocation_metadata() if key == "traceparent"
        ]
        arm = "pinned" if request.pinned_version else "stable"
        selected = generator_pb2.Selected(
            model_version=request.pinned_version or self.stable,
            arm=arm,
            assignment_probability=1,
            task=request.task or chat_pb2.TASK_CHAT,
            temperature=0.5,
            top_p=0.75,
            max_tokens=512,
        )
        try:
            yield generator_pb2.GenerateEvent(selected=selected)
            for number, delta in enumerate(self.deltas):
                if number == self.breaks_after:
                    raise UnavailableError("the model server went away", reason="MODEL_SERVER_AWAY")
                if self.gate:
                    await self.gate(number)
                yield generator_pb2.GenerateEvent(text_delta=delta)
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled.set()
            raise
        usage = chat_pb2.Usage(prompt_tokens=7, completion_tokens=len(self.deltas))
        finished = generator_pb2.Finished(
            finish_reason=self.finish_reason, usage=usage, sample=self.sample
        )
        yield generator_pb2.GenerateEvent(finished=finished)

    async def GetRollout(self, request: Any, context: Any) -> generator_pb2.GetRolloutResponse:
        ready = generator_pb2.VERSION_STATE_READY
        return generator_pb2.GetRolloutResponse(
            external_models=self.external,
            stable=generator_pb2.ServedVersion(version=self.stable, state=ready, share=0.9),
            candidate=generator_pb2.ServedVersion(version=self.candidate, state=ready, share=0.1),
            watch=generator_pb2.RolloutWatch(
                previous=generator_pb2.ServedVersion(version=self.watched, state=ready, share=0.05)
            ),
        )


class FakeFeedback(feedback_pb2_grpc.FeedbackLogServiceServicer, FaultSwitch):
    """Feedback log in memory. The last thumb and the last correction are current.

    An erasure removes the caller's feedback. A repeated erasure is the same until new feedback
    arrives.
    """

    def __init__(self) -> None:
        super().__init__()
        self.events: dict[str, events_pb2.FeedbackEvent] = {}
        self.owners: dict[str, str] = {}
        self.consents: dict[str, feedback_pb2.Consent] = {}
        self.erasures: dict[str, tuple[str, feedback_pb2.Erasure]] = {}
        self.lost_erasures = 0
        self.broken_seal = False
        self.arms = [
            feedback_pb2.ExperimentArm(
                model_version=CANDIDATE,
                arm="candidate",
                exposed_users=3,
                up=2,
                up_rate_low=0.2,
                up_rate_high=1,
            )
        ]

    async def RecordFeedback(
        self, request: Any, context: Any
    ) -> feedback_pb2.RecordFeedbackResponse:
        self.check()
        known = self.events.setdefault(request.event.event_id, request.event)
        self.owners[request.event.event_id] = require_caller().key
        if (known.WhichOneof("value"), known.thumb) != (
            request.event.WhichOneof("value"),
            request.event.thumb,
        ):
            raise AlreadyExistsError("this id was used with another content", field="event_id")
        return feedback_pb2.RecordFeedbackResponse(durability=feedback_pb2.DURABILITY_SPOOL)

    async def GetThumbs(self, request: Any, context: Any) -> feedback_pb2.GetThumbsResponse:
        self.check()
        if self.broken_seal:
            raise ValueError("what was sealed cannot be opened")
        thumbs = {
            event.message_id: event.thumb.up
            for event in self.events.values()
            if event.HasField("thumb") and event.message_id in request.message_ids
        }
        words: dict[str, feedback_pb2.Words] = {}
        for event in self.events.values():
            said = words.setdefault(event.message_id, feedback_pb2.Words())
            said.MergeFrom(
                feedback_pb2.Words(reasons=event.thumb.reasons, comment=event.thumb.comment)
            )
            said.correction = event.correction.text or said.correction
        return feedback_pb2.GetThumbsResponse(thumbs=thumbs, words=words)

    async def CountThumbs(self, request: Any, context: Any) -> feedback_pb2.CountThumbsResponse:
        """Count all thumbs, without regard to users."""
        self.check()
        said = [
            e
            for e in self.events.values()
            if e.accept_time.ToMicroseconds() >= request.since.ToMicroseconds()
        ]
        up = sum(event.thumb.up for event in said)
        down = sum(event.HasField("thumb") for event in said) - up
        count = feedback_pb2.ThumbCount(model_version=STABLE, arm="stable", up=up, down=down)
        return feedback_pb2.CountThumbsResponse(counts=[count])

    async def GetExperiment(self, request: Any, context: Any) -> feedback_pb2.GetExperimentResponse:
        self.check()
        return feedback_pb2.GetExperimentResponse(arms=self.arms)

    async def GetPrincipalConsent(
        self, request: Any, context: Any
    ) -> feedback_pb2.GetPrincipalConsentResponse:
        self.check()
        consent = self.consents.get(require_caller().key, feedback_pb2.Consent(training=True))
        return feedback_pb2.GetPrincipalConsentResponse(consent=consent)

    async def SetPrincipalConsent(
        self, request: Any, context: Any
    ) -> feedback_pb2.SetPrincipalConsentResponse:
        self.check()
        consent = feedback_pb2.Consent(training=request.training)
        consent.update_time.GetCurrentTime()
        self.consents[require_caller().key] = consent
        return feedback_pb2.SetPrincipalConsentResponse(consent=consent)

    async def ErasePrincipal(
        self, request: Any, context: Any
    ) -> feedback_pb2.ErasePrincipalResponse:
        self.check()
        owner = require_caller().key
        said = [event_id for event_id, by in self.owners.items() if by == owner]
        of_owner = [erasure for by, erasure in self.erasures.values() if by == owner]
        if said or not of_owner:
            for event_id in said:
                del self.events[event_id], self.owners[event_id]
            of_owner.append(feedback_pb2.Erasure(erasure_id=_id()))
            of_owner[-1].request_time.GetCurrentTime()
            of_owner[-1].shred_time.GetCurrentTime()
            self.erasures[of_owner[-1].erasure_id] = (owner, of_owner[-1])
        if self.lost_erasures:
            self.lost_erasures -= 1
            raise UnavailableError("erased, reply lost on request", reason="AWAY")
        return feedback_pb2.ErasePrincipalResponse(erasure=of_owner[-1])

    async def GetPrincipalErasure(
        self, request: Any, context: Any
    ) -> feedback_pb2.GetPrincipalErasureResponse:
        self.check()
        owner, erasure = self.erasures.get(request.erasure_id, ("", None))
        if owner != require_caller().key:
            raise NotFoundError("no such erasure of the caller")
        return feedback_pb2.GetPrincipalErasureResponse(erasure=erasure)


class FakeReview(
    arena_pb2_grpc.ArenaServiceServicer, arena_pb2_grpc.BattleModelServiceServicer, FaultSwitch
):
    """Arena in memory. Every battle is between `versions`, in this order."""

    def __init__(self) -> None:
        super().__init__()
        self.versions = (STABLE, CANDIDATE)
        self.battles: dict[str, tuple[str, arena_pb2.Battle]] = {}
        self.votes: list[arena_pb2.VoteBattleRequest] = []
        self.leaderboards: list[arena_pb2.GetLeaderboardRequest] = []

    async def CreateBattle(self, request: Any, context: Any) -> arena_pb2.CreateBattleResponse:
        self.check()
        if not 1 <= len(request.request_id) <= 64:
            raise InvalidArgumentError(
                "wrong", field="request_id", limit="1 to 64 characters, required"
            )
        owner = require_caller().key
        battle_id = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{owner}/{request.request_id}"))
        models = [f"battle.{battle_id}.{side}" for side in "ab"]
        battle = arena_pb2.Battle(battle_id=battle_id, models=models)
        return arena_pb2.CreateBattleResponse(
            battle=self.battles.setdefault(battle_id, (owner, battle))[1]
        )

    async def GetBattle(self, request: Any, context: Any) -> arena_pb2.GetBattleResponse:
        self.check()
        return arena_pb2.GetBattleResponse(battle=self._own(request.battle_id, "battle_id"))

    async def VoteBattle(self, request: Any, context: Any) -> arena_pb2.VoteBattleResponse:
        self.check()
        self.votes.append(request)
        battle = self._own(request.battle_id, "battle_id")
        if battle.outcome not in (arena_pb2.OUTCOME_UNSPECIFIED, request.outcome):
            raise AlreadyExistsError("another vote", field="outcome")
        battle.outcome = request.outcome
        battle.model_versions[:] = self.versions
        return arena_pb2.VoteBattleResponse(battle=battle)

    async def GetLeaderboard(self, request: Any, context: Any) -> arena_pb2.GetLeaderboardResponse:
        self.check()
        self.leaderboards.append(request)
        return arena_pb2.GetLeaderboardResponse(
            entries=[arena_pb2.LeaderboardEntry(rank=1, model=STABLE, rating=1_000, votes=3)],
            votes=3,
        )

    async def ResolveBattleModel(
        self, request: Any, context: Any
    ) -> arena_pb2.ResolveBattleModelResponse:
        self.check()
        _, battle_id, side = request.model.split(".")
        if self._own(battle_id, "model").outcome:
            raise FailedPreconditionError("the battle has a vote", reason="VOTED", field="model")
        version = self.versions["ab".index(side)]
        return arena_pb2.ResolveBattleModelResponse(model_version=version)

    def _own(self, battle_id: str, field: str) -> arena_pb2.Battle:
        owner, battle = self.battles.get(battle_id, ("", arena_pb2.Battle()))
        if owner != require_caller().key:
            raise NotFoundError("no such battle of the caller", field=field)
        return battle


class Backends:
    """All six fake services."""

    def __init__(self) -> None:
        self.guardrail, self.enhancer, self.session = FakeGuardrail(), FakeEnhancer(), FakeSession()
        # Only methods called by the gateway are implemented. The others answer UNIMPLEMENTED.
        self.generator, self.feedback = FakeGenerator(), FakeFeedback()  # type: ignore[abstract]
        self.review, self.reviews, self.appeals = FakeReview(), FakeReviews(), FakeAppeals()

    def registrations(self) -> list[Registration]:
        prefix = "thumbwheel"
        return [
            Registration(
                f"{prefix}.guardrail.v1.GuardrailService",
                guardrail_pb2_grpc.add_GuardrailServiceServicer_to_server,
                self.guardrail,
            ),
            Registration(
                f"{prefix}.enhancer.v1.EnhancerService",
                enhancer_pb2_grpc.add_EnhancerServiceServicer_to_server,
                self.enhancer,
            ),
            Registration(
                f"{prefix}.session.v1.SessionService",
                session_pb2_grpc.add_SessionServiceServicer_to_server,
                self.session,
            ),
            Registration(
                f"{prefix}.generator.v1.GeneratorService",
                generator_pb2_grpc.add_GeneratorServiceServicer_to_server,
                self.generator,
            ),
            Registration(
                f"{prefix}.generator.v1.RolloutService",
                generator_pb2_grpc.add_RolloutServiceServicer_to_server,
                self.generator,
            ),
            Registration(
                f"{prefix}.feedback.v1.FeedbackLogService",
                feedback_pb2_grpc.add_FeedbackLogServiceServicer_to_server,
                self.feedback,
            ),
            Registration(
                f"{prefix}.review.v1.ArenaService",
                arena_pb2_grpc.add_ArenaServiceServicer_to_server,
                self.review,
            ),
            Registration(
                f"{prefix}.review.v1.BattleModelService",
                arena_pb2_grpc.add_BattleModelServiceServicer_to_server,
                self.review,
            ),
            Registration(
                f"{prefix}.review.v1.AppealService",
                appeal_pb2_grpc.add_AppealServiceServicer_to_server,
                self.appeals,
            ),
            Registration(
                f"{prefix}.review.v1.ReviewService",
                review_pb2_grpc.add_ReviewServiceServicer_to_server,
                self.reviews,
            ),
        ]


@asynccontextmanager
async def backends(**changes: object) -> AsyncIterator[tuple[Backends, str]]:
    """Serve the fakes and yield them with their address. `changes` are settings."""
    fakes, given = Backends(), {"port": 0, "drain_seconds": 1, "lame_duck_seconds": 0, **changes}
    async with serving(ServiceSettings.model_validate(given), fakes.registrations()) as port:
        yield fakes, f"127.0.0.1:{port}"


def _id() -> str:
    return str(uuid.uuid4())
