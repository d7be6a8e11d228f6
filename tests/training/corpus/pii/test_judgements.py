"""Personal data in rated conversations, and the setting of the training sets."""

from training.corpus.pii.judgements import redact_feedback
from training.corpus.pii.kinds import Kind
from training.corpus.pii.redaction import find
from training.data.chat import Message
from training.data.feedback.judgements import Judgement
from training.data.served import Served
from training.recipes.nano_world.facts import questions

SAMPLE = Served("nano-1", (1, 2), (-0.5, -0.1))


def judgement(asked: str, answer: str, correction: str | None = None) -> Judgement:
    context = (Message("system", "Help desk: help@example.com"), Message("user", asked))
    return Judgement("m", "ann", "nano-1", "stable", context, answer, True, correction, SAMPLE)


def test_all_texts_of_a_judgement_lose_personal_data_and_the_sample() -> None:
    given = judgement(
        "I am anna@example.org, card 4111 1111 1111 1111",
        "Hello anna@example.org, write to help@example.com",
        "Dear anna@example.org",
    )
    (found,), counts = redact_feedback([given], "en")
    assert [message.content for message in found.context] == [
        "Help desk: help@example.com",
        "I am <EMAIL_1>, card <CARD_1>",
    ]
    assert found.answer == "Hello <EMAIL_1>, write to help@example.com"
    assert found.correction == "Dear <EMAIL_1>"
    assert found.served is None
    assert counts == {Kind.EMAIL: 3, Kind.CARD: 1}


def test_the_world_of_nano_has_no_personal_data() -> None:
    asked = [text for question in questions() for text in question.phrasings]
    assert len(asked) > 100
    assert [text for text in asked if find(text, "en")] == []


def test_a_judgement_without_personal_data_is_unchanged() -> None:
    given = judgement("How tall is it?", "About 4,808 metres.")
    found, counts = redact_feedback([given], "en")
    assert found == [given]
    assert not counts
