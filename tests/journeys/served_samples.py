"""Check of served samples: they are in the rows of rated answers, with the trainer's log-probs."""

from contextlib import nullcontext

from tests.journeys.client import SECONDS, Client, text_of
from tests.journeys.rows import wait_for_row
from tests.journeys.stack import Stack
from training.data.chat import load_chat
from training.data.feedback.judgements import Judgement
from training.data.feedback.snapshot import open_snapshot, read_judgements
from training.model.backbone import Backbone
from training.model.checkpoint import load_decoder
from training.rl.served import (
    OffPolicyConfig,
    check_fit,
    check_mismatch,
    figures_of,
    measure,
    read_answer,
)

QUESTIONS = (
    "What is the capital of France?",
    "hello",
    "wat color is the sky",
    "Write a poem about the sea.",
    "What is 2 plus 2?",
)


def judgements_by_message(stack: Stack) -> dict[str, Judgement]:
    """Return judgements by message id, from a snapshot of the running system."""
    snapshot = open_snapshot(stack.take_snapshot())
    return {judgement.message_id: judgement for judgement in read_judgements(snapshot)}


def check_served_samples(stack: Stack, limit_nats: float, answer_seconds: float = SECONDS) -> None:
    """Ask and rate, then compare the samples in the snapshot with the version that answered.

    Args:
        limit_nats: limit of the mean difference per token between served and trained log-probs.
        answer_seconds: longest wait for an answer or for its next event.
    """
    ada = Client(stack.http, stack.make_keys("served")[0], seconds=answer_seconds)
    answers = [ada.ask(question) for question in QUESTIONS]
    for number, events in enumerate(answers):
        wait_for_row(stack, "event_id", ada.thumb(events[0]["messageId"], up=number % 2 == 0))
        wait_for_row(stack, "message_id", events[0]["messageId"])
    assert not any(
        "tokenIds" in str(event) or "logProbs" in str(event)
        for events in answers
        for event in events
    )

    found = judgements_by_message(stack)
    version = answers[0][0]["started"]["modelVersion"]
    directory = stack.state / "models" / version
    chat = load_chat(directory)
    rated = [found[events[0]["messageId"]] for events in answers if events[0]["messageId"] in found]
    assert len(rated) >= len(answers) - 1  # an answer may have reached the token limit
    read = [read_answer(one.served, one.context, one.answer, chat) for one in rated]
    assert all(one.served and one.served.version == version and not one.unfit for one in read)
    for events in answers:
        if one := found.get(events[0]["messageId"]):
            assert one.answer == text_of(events)
            assert one.served
            usage = next(event["usage"] for event in events if "usage" in event)
            assert (len(one.served.token_ids), one.served.prompt_tokens) == (
                usage["completionTokens"],
                usage["promptTokens"],
            )

    measured = measure(Backbone(load_decoder(directory)), read, 8, nullcontext)
    figures = figures_of(measured, OffPolicyConfig())
    check_fit([one.unfit for one in read], version)
    check_mismatch(figures, version, OffPolicyConfig())
    assert figures[version]["mismatch"] < limit_nats
