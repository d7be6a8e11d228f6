"""Table of invalid requests with the expected errors, for gRPC, HTTP and the real stack."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf import descriptor_pool, json_format
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2, status_pb2

from services.chassis.errors import DETAILS_KEY

MISSING_UUID = "018f0000-0000-7000-8000-000000000000"
WRONG_KEY = "tw_" + "A" * 43
ANSWER, USER_MESSAGE, FOREIGN_CONVERSATION = "<answer>", "<user message>", "<foreign conversation>"


@dataclass(frozen=True)
class BadInput:
    """One invalid request in protobuf's JSON. The error must name `field` and contain `limit`."""

    name: str
    request: Mapping[str, Any]
    code: str
    field: str = ""
    limit: str = ""
    method: str = "SendMessage"
    key: str | None = "good"

    @property
    def json_field(self) -> str:
        """Name of the field over HTTP: as in the URL, or as in JSON for fields of bodies."""
        in_path = f"{{{JSON_NAMES.get(self.field, '-')}}}" in OVER_HTTP.get(self.method, "")
        return self.field if in_path else JSON_NAMES.get(self.field, self.field)


def _say(text: str = "hello", **more: Any) -> dict[str, Any]:
    return {"input": {"text": text}, **more}


def _thumb(message_id: str, request_id: str = "r", **more: Any) -> dict[str, Any]:
    return {"messageId": message_id, "requestId": request_id, "thumb": {"up": True}, **more}


def _sampling(**values: Any) -> dict[str, Any]:
    return _say(sampling=values)


WRONG = "INVALID_ARGUMENT"
MISSING = "NOT_FOUND"
FEEDBACK = "SubmitFeedback"
JSON_NAMES = {
    # A oneof has no field in JSON.
    "action": "body",
    "value": "body",
    "on_disconnect": "onDisconnect",
    "conversation_id": "conversationId",
    "parent_message_id": "parentMessageId",
    "message_id": "messageId",
    "regenerate.message_id": "regenerate.messageId",
    "request_id": "requestId",
    "battle_id": "battleId",
    "message_ids": "messageIds",
    "item_id": "itemId",
    "review.written_answer": "review.writtenAnswer",
    "sampling.max_tokens": "sampling.maxTokens",
    "sampling.top_p": "sampling.topP",
}

TABLE = (
    BadInput("empty text", _say(""), WRONG, "input.text", "32,768 characters"),
    BadInput("blank text", _say(" \n\t "), WRONG, "input.text", "not all blank"),
    BadInput("no action", {}, WRONG, "action", "input, regenerate"),
    BadInput("200 KB", _say("x" * 200_000), WRONG, "input.text", "32,768 characters"),
    BadInput(
        "one character too many", _say("x" * 32_769), WRONG, "input.text", "32,768 characters"
    ),
    BadInput("unknown task", _say(task=99), WRONG, "task", "creative"),
    BadInput("unknown disconnect policy", _say(onDisconnect=7), WRONG, "on_disconnect", "cancel"),
    BadInput("temperature 9", _sampling(temperature=9), WRONG, "sampling.temperature", "0 to 2"),
    BadInput(
        "temperature below 0", _sampling(temperature=-0.1), WRONG, "sampling.temperature", "0 to 2"
    ),
    BadInput(
        "temperature not a number",
        _sampling(temperature="NaN"),
        WRONG,
        "sampling.temperature",
        "0 to 2",
    ),
    BadInput("top_p 0", _sampling(topP=0), WRONG, "sampling.top_p", "above 0 to 1"),
    BadInput("no tokens", _sampling(maxTokens=0), WRONG, "sampling.max_tokens", "1 to 4,096"),
    BadInput(
        "too many tokens", _sampling(maxTokens=4097), WRONG, "sampling.max_tokens", "1 to 4,096"
    ),
    BadInput("five stops", _sampling(stop=["a"] * 5), WRONG, "sampling.stop", "at most 4"),
    BadInput("long stop", _sampling(stop=["a" * 65]), WRONG, "sampling.stop", "64 characters"),
    BadInput("long request id", _say(requestId="r" * 65), WRONG, "request_id", "64 characters"),
    BadInput("conversation id no UUID", _say(conversationId="x"), WRONG, "conversation_id", "UUID"),
    BadInput("parent id no UUID", _say(parentMessageId="x"), WRONG, "parent_message_id", "UUID"),
    BadInput(
        "foreign conversation",
        _say(conversationId=FOREIGN_CONVERSATION),
        MISSING,
        "conversation_id",
    ),
    BadInput("missing conversation", _say(conversationId=MISSING_UUID), MISSING, "conversation_id"),
    BadInput("regenerate nothing", {"regenerate": {}}, WRONG, "regenerate.message_id", "UUID"),
    BadInput(
        "regenerate unknown", {"regenerate": {"messageId": MISSING_UUID}}, MISSING, "message_id"
    ),
    BadInput("unknown model", _say(model="gpt-9"), MISSING, "model", "thumbwheel"),
    BadInput("impossible model", _say(model="No Such"), WRONG, "model", "a-z"),
    BadInput(
        "history without role",
        {"input": {"text": "a", "history": [{"text": "b"}]}},
        WRONG,
        "input.history[0].role",
        "user",
    ),
    BadInput(
        "long history",
        {"input": {"text": "a", "history": [{"role": "ROLE_USER", "text": "b"}] * 201}},
        WRONG,
        "input.history",
        "200",
    ),
    BadInput(
        "history in an old conversation",
        {
            "input": {"text": "a", "history": [{"role": "ROLE_USER", "text": "b"}]},
            "conversationId": MISSING_UUID,
        },
        WRONG,
        "input.history",
        "new",
    ),
    BadInput("no key", _say(), "UNAUTHENTICATED", "authorization", "Bearer tw_", key=None),
    BadInput("wrong key", _say(), "UNAUTHENTICATED", "authorization", "Bearer tw_", key=WRONG_KEY),
    BadInput(
        "thumb on an unknown message", _thumb(MISSING_UUID), MISSING, "message_id", method=FEEDBACK
    ),
    BadInput("thumb on no UUID", _thumb("x"), WRONG, "message_id", "UUID", method=FEEDBACK),
    BadInput(
        "thumb on a user's message",
        _thumb(USER_MESSAGE),
        WRONG,
        "message_id",
        "an answer",
        method=FEEDBACK,
    ),
    BadInput(
        "thumb without request id",
        _thumb(ANSWER, ""),
        WRONG,
        "request_id",
        "1 to 64",
        method=FEEDBACK,
    ),
    BadInput(
        "nothing said",
        {"messageId": ANSWER, "requestId": "r"},
        WRONG,
        "value",
        "thumb",
        method=FEEDBACK,
    ),
    BadInput(
        "nine reasons",
        _thumb(ANSWER, thumb={"up": False, "reasons": ["a"] * 9}),
        WRONG,
        "thumb.reasons",
        "at most 8",
        method=FEEDBACK,
    ),
    BadInput(
        "long comment",
        _thumb(ANSWER, thumb={"up": False, "comment": "c" * 2001}),
        WRONG,
        "thumb.comment",
        "2,000",
        method=FEEDBACK,
    ),
    BadInput(
        "empty correction",
        {"messageId": ANSWER, "requestId": "r", "correction": {"text": ""}},
        WRONG,
        "correction.text",
        "8,192",
        method=FEEDBACK,
    ),
    BadInput(
        "retraction of nothing",
        {"messageId": ANSWER, "requestId": "r", "retraction": {"kind": "smile"}},
        WRONG,
        "retraction.kind",
        "thumb or correction",
        method=FEEDBACK,
    ),
    BadInput(
        "unknown signal",
        {"messageId": ANSWER, "requestId": "r", "signal": {"kind": "read"}},
        WRONG,
        "signal.kind",
        "copied",
        method=FEEDBACK,
    ),
    BadInput(
        "thumb without a key",
        _thumb(ANSWER),
        "UNAUTHENTICATED",
        "authorization",
        method=FEEDBACK,
        key=None,
    ),
    BadInput(
        "consent to nothing said", {}, WRONG, "training", "true or false", method="SetConsent"
    ),
    BadInput(
        "consent without a key",
        {"training": True},
        "UNAUTHENTICATED",
        "authorization",
        method="SetConsent",
        key=None,
    ),
    BadInput(
        "erasure id no UUID", {"erasureId": "x"}, WRONG, "erasure_id", "UUID", method="GetErasure"
    ),
    BadInput(
        "missing erasure", {"erasureId": MISSING_UUID}, MISSING, "erasure_id", method="GetErasure"
    ),
    BadInput(
        "battle without request id", {}, WRONG, "request_id", "1 to 64", method="CreateBattle"
    ),
    BadInput(
        "missing battle", {"battleId": MISSING_UUID}, MISSING, "battle_id", method="GetBattle"
    ),
    BadInput(
        "vote on a missing battle",
        {
            "battleId": MISSING_UUID,
            "messageIds": [MISSING_UUID, MISSING_UUID[:-1] + "1"],
            "outcome": "OUTCOME_TIE",
        },
        MISSING,
        "battle_id",
        method="VoteBattle",
    ),
    BadInput(
        "three answers in a vote",
        {"battleId": MISSING_UUID, "messageIds": [MISSING_UUID] * 3},
        WRONG,
        "message_ids",
        "at most 2",
        method="VoteBattle",
    ),
    BadInput(
        "skipped item id no UUID", {"itemId": "x"}, WRONG, "item_id", "UUID", method="SkipItem"
    ),
    BadInput("missing item", {"itemId": MISSING_UUID}, MISSING, "item_id", method="SkipItem"),
    BadInput(
        "appealed id no UUID",
        {"messageId": "x"},
        WRONG,
        "message_id",
        "UUID",
        method="SubmitAppeal",
    ),
    BadInput(
        "missing message of an appeal",
        {"messageId": MISSING_UUID},
        MISSING,
        "message_id",
        method="SubmitAppeal",
    ),
    BadInput("no review", {"itemId": MISSING_UUID}, WRONG, "review", "set", method="SubmitReview"),
    BadInput(
        "review of a missing item",
        {"itemId": MISSING_UUID, "review": {"writtenAnswer": "Better."}},
        MISSING,
        "item_id",
        method="SubmitReview",
    ),
    BadInput(
        "long written answer",
        {"itemId": MISSING_UUID, "review": {"writtenAnswer": "x" * 8_193}},
        WRONG,
        "review.written_answer",
        "8,192",
        method="SubmitReview",
    ),
    BadInput(
        "long comment in a resolution",
        {"itemId": MISSING_UUID, "review": {"comment": "x" * 2_001}},
        WRONG,
        "review.comment",
        "2,000",
        method="ResolveDisagreement",
    ),
    BadInput(
        "seven scores",
        {"itemId": MISSING_UUID, "review": {"scores": [{}] * 7}},
        WRONG,
        "review.scores",
        "at most 6",
        method="SubmitReview",
    ),
)

# Method and path of each RPC over HTTP. The rest of the request becomes the body.
OVER_HTTP: Mapping[str, str] = {
    "SendMessage": "POST /api/messages",
    "SubmitFeedback": "POST /api/feedback",
    "SetConsent": "PUT /api/consent",
    "GetErasure": "GET /api/erasure/{erasureId}",
    "CreateBattle": "POST /api/arena/battles",
    "GetBattle": "GET /api/arena/battles/{battleId}",
    "VoteBattle": "POST /api/arena/battles/{battleId}/vote",
    "SubmitAppeal": "POST /api/appeals",
    "SubmitReview": "POST /api/reviews/{itemId}",
    "SkipItem": "POST /api/reviews/{itemId}/skip",
    "ResolveDisagreement": "POST /api/reviews/{itemId}/resolution",
}

# Client and package of the methods outside of FeedbackService.
SERVICES: Mapping[str, tuple[str, str]] = {
    "SendMessage": ("chat", "chat"),
    **dict.fromkeys(("CreateBattle", "GetBattle", "VoteBattle"), ("arena", "review")),
    "SubmitAppeal": ("appeals", "review"),
    **dict.fromkeys(("SubmitReview", "SkipItem", "ResolveDisagreement"), ("reviews", "review")),
}


def over_http(case: BadInput, request: Mapping[str, Any]) -> tuple[str, str, Any]:
    """Return HTTP method, path and body of a request."""
    method, _, path = OVER_HTTP[case.method].partition(" ")
    return method, path.format(**request), None if method == "GET" else request


def over_grpc(case: BadInput, request: Mapping[str, Any]) -> tuple[str, Any]:
    """Return the service and the message of a request."""
    service, package = SERVICES.get(case.method, ("feedback", "feedback"))
    pool = descriptor_pool.Default()
    kind = pool.FindMessageTypeByName(f"thumbwheel.{package}.v1.{case.method}Request")
    return service, json_format.ParseDict(request, GetMessageClass(kind)())


@dataclass(frozen=True)
class BadJson:
    """An invalid body, possible only over HTTP."""

    name: str
    body: bytes
    field: str
    limit: str = ""
    path: str = "/api/messages"
    status: int = 400
    method: str = "POST"


BAD_JSON = (
    BadJson("no body", b"", "body", "JSON"),
    BadJson("invalid UTF-8", b'{"input": {"text": "\xff\xfe"}}', "body", "UTF-8"),
    BadJson("not JSON", b"{input}", "body", "JSON"),
    BadJson("a list", b"[]", "body", "object"),
    BadJson("deep JSON", b"[" * 100_000, "body", "JSON"),
    BadJson("half a character", b'{"input": {"text": "\\ud800"}}', "input.text", "Unicode"),
    BadJson("half a character in a name", b'{"\\ud800": 1}', "\\ud800", "Unicode"),
    BadJson(
        "half a character in a name within", b'{"input": {"\\ud800a": 1}}', "\\ud800a", "Unicode"
    ),
    BadJson("unknown field", b'{"input": {"text": "a"}, "colour": 1}', "colour", "conversationId"),
    BadJson(
        "unknown field within", b'{"input": {"text": "a", "colour": 1}}', "input.colour", "history"
    ),
    BadJson(
        "unknown field as sent", b'{"input": {"text": "a"}, "a_b": 1}', "a_b", "conversationId"
    ),
    BadJson("a number as text", b'{"input": {"text": 1}}', "input.text", "text"),
    BadJson(
        "a text as number",
        b'{"input": {"text": "a"}, "sampling": {"temperature": "hot"}}',
        "sampling.temperature",
    ),
    BadJson(
        "unknown name of a task",
        b'{"input": {"text": "a"}, "task": "TASK_SING"}',
        "task",
        "TASK_CODE",
    ),
    BadJson(
        "wrong history",
        b'{"input": {"text": "a", "history": [{"role": "ROLE_DOG"}]}}',
        "input.history[0].role",
    ),
    BadJson("two actions", b'{"input": {"text": "a"}, "regenerate": {}}', "body", "oneof"),
    BadJson("a field twice", b'{"input": {"text": "a", "text": "b"}}', "text", "once"),
    BadJson("300 KB", b" " * 300_000, "body", "262144", status=413),
    BadJson("no body for consent", b"", "body", "JSON", "/api/consent", method="PUT"),
    BadJson(
        "a word as consent",
        b'{"training": "yes"}',
        "training",
        "true or false",
        "/api/consent",
        method="PUT",
    ),
    BadJson(
        "consent to more",
        b'{"training": true, "all": true}',
        "all",
        "training",
        "/api/consent",
        method="PUT",
    ),
    BadJson("700 KB for OpenAI", b" " * 700_000, "body", "655360", "/v1/chat/completions", 413),
)


def _completion(**more: Any) -> dict[str, Any]:
    return {"model": "thumbwheel", "messages": [{"role": "user", "content": "hello"}], **more}


@dataclass(frozen=True)
class BadCompletion:
    """An invalid body for /v1/chat/completions."""

    name: str
    body: Mapping[str, Any]
    field: str
    limit: str = ""
    status: int = 400
    code: str = "invalid_argument"


BAD_COMPLETIONS = (
    BadCompletion("temperature 9", _completion(temperature=9), "temperature", "0 to 2"),
    BadCompletion("temperature true", _completion(temperature=True), "temperature", "a number"),
    BadCompletion("temperature 1e400", _completion(temperature=10**400), "temperature", "a number"),
    BadCompletion("top_p 2", _completion(top_p=2), "top_p", "above 0 to 1"),
    BadCompletion("max_tokens 0", _completion(max_tokens=0), "max_tokens", "1 to 4,096"),
    BadCompletion(
        "other name of it",
        _completion(max_completion_tokens=0),
        "max_completion_tokens",
        "1 to 4,096",
    ),
    BadCompletion("negative seed", _completion(seed=-1), "seed", "0 to"),
    BadCompletion("five stops", _completion(stop=["a"] * 5), "stop", "at most 4"),
    BadCompletion("stop 1", _completion(stop=1), "stop", "text"),
    BadCompletion("n 2", _completion(n=2), "n", "only 1", code="unsupported_parameter"),
    BadCompletion(
        "logprobs",
        _completion(logprobs=True),
        "logprobs",
        "only false",
        code="unsupported_parameter",
    ),
    BadCompletion(
        "tools",
        _completion(tools=[{"type": "function"}]),
        "tools",
        "only []",
        code="unsupported_parameter",
    ),
    BadCompletion(
        "unknown parameter",
        _completion(colour="red"),
        "colour",
        "temperature",
        code="unknown_parameter",
    ),
    BadCompletion("no model", {"messages": []}, "model", "name"),
    BadCompletion(
        "unknown model", _completion(model="gpt-9"), "model", "thumbwheel", 404, "model_not_found"
    ),
    BadCompletion(
        "impossible model", _completion(model="A/B"), "model", "/v1/models", 404, "model_not_found"
    ),
    BadCompletion("no messages", _completion(messages=[]), "messages", "1 to 201"),
    BadCompletion(
        "202 messages",
        _completion(messages=_completion()["messages"] * 202),
        "messages",
        "1 to 201",
    ),
    BadCompletion("a word as message", _completion(messages=["hello"]), "messages[0]", "object"),
    BadCompletion(
        "wrong role",
        _completion(messages=[{"role": "tool", "content": "a"}]),
        "messages[0].role",
        "user",
    ),
    BadCompletion(
        "last by the assistant",
        _completion(messages=[{"role": "assistant", "content": "a"}]),
        "messages[0].role",
        "user",
    ),
    BadCompletion(
        "an image",
        _completion(
            messages=[
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}
            ]
        ),
        "messages[0].content",
        "text",
    ),
    BadCompletion(
        "empty",
        _completion(messages=[{"role": "user", "content": ""}]),
        "messages[0].content",
        "32,768",
    ),
    BadCompletion(
        "500 KB",
        _completion(messages=[{"role": "user", "content": "x" * 500_000}]),
        "messages[0].content",
        "32,768",
    ),
    BadCompletion(
        "500 KB of history",
        _completion(
            messages=[
                {"role": "system", "content": "x" * 500_000},
                {"role": "user", "content": "a"},
            ]
        ),
        "messages[0].content",
        "32,768",
    ),
    BadCompletion(
        "options without stream", _completion(stream_options={}), "stream_options", "stream"
    ),
    BadCompletion("stream maybe", _completion(stream="maybe"), "stream", "true or false"),
)


def error_info(error: grpc.aio.AioRpcError) -> tuple[str, error_details_pb2.ErrorInfo]:
    status = status_pb2.Status.FromString(dict(error.trailing_metadata() or ())[DETAILS_KEY])
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    return status.message, info
