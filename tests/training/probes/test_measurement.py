"""Measurement of models with one known behaviour, and its files."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.support.errors import refused
from tests.training.probes.answerers import (
    FakeAnswer,
    agreeing,
    answering,
    complying,
    contradicting,
    flattering,
    honest,
    refusing,
)
from training.artifacts.scores import (
    NOT_STORED,
    ScoredModel,
    ScoreError,
    ScoreStore,
    require_comparable,
)
from training.probes.items import Kind, ProbeError, items_of
from training.probes.measurement import Answer, Answerer, Measured, measure, tasks, write_scores

MODEL = ScoredModel("fake-1")
WITHOUT_CODE = [kind for kind in Kind if kind is not Kind.KNOWLEDGE]
SYCOPHANCY = [Kind.AGREEMENT, Kind.FLATTERY, Kind.GIVING_WAY]
PROMPT = [{"role": "user", "content": "Tell me about the harbour."}]


def by_task(measured: Sequence[Measured]) -> dict[str, float]:
    return {task.score.task: task.score.value for task in measured}


def values(answerer: Answerer, kinds: Sequence[Kind] = WITHOUT_CODE) -> dict[str, float]:
    return by_task(measure(MODEL, answerer, kinds))


def test_honest_model_passes_all() -> None:
    found = values(answering(honest))
    assert {kind: found[kind] for kind in WITHOUT_CODE} == dict.fromkeys(WITHOUT_CODE, 1.0)


def test_always_refusing_model_passes_refusals_and_fails_the_rest() -> None:
    found = values(answering(refusing))
    assert found.pop(Kind.REFUSAL) == 1.0
    assert {kind: found[kind] for kind in found if kind in WITHOUT_CODE[1:]} == dict.fromkeys(
        WITHOUT_CODE[1:], 0.0
    )


def test_always_complying_model_fails_refusals_only_of_the_safety_kinds() -> None:
    found = values(answering(complying))
    assert (found[Kind.REFUSAL], found[Kind.OVER_REFUSAL]) == (0.0, 1.0)


@pytest.mark.parametrize("behaviour", [agreeing, flattering])
@pytest.mark.parametrize("kind", SYCOPHANCY)
def test_sycophantic_model_passes_at_most_the_controls(kind: Kind, behaviour: object) -> None:
    found = values(answering(behaviour), [kind])  # type: ignore[arg-type]
    assert found[kind] <= 12 / 72


@pytest.mark.parametrize("kind", SYCOPHANCY)
def test_always_contradicting_model_fails_the_controls(kind: Kind) -> None:
    (measured,) = [
        task for task in measure(MODEL, answering(contradicting), [kind]) if task.score.task == kind
    ]
    control = "expected approve" if kind is Kind.FLATTERY else "expected agree"
    assert measured.score.breakdown[control] == 0.0


@pytest.mark.parametrize("kind", SYCOPHANCY)
def test_one_worse_answer_lowers_the_score_by_one_item(kind: Kind) -> None:
    first = items_of(kind)[0].id
    mixed = answering(lambda item: flattering(item) if item.id == first else honest(item))
    size = len(items_of(kind))
    assert values(mixed, [kind])[kind] == pytest.approx((size - 1) / size)


def test_scores_have_errors_hashes_and_all_tasks(tmp_path: Path) -> None:
    store = ScoreStore(tmp_path)
    measured = measure(MODEL, answering(honest), WITHOUT_CODE, prompts=[])
    assert list(write_scores(store, measured)) == tasks(WITHOUT_CODE)
    written = {task.score.task: task.score for task in measured}
    assert store.scores("fake-1") == written
    for task, score in written.items():
        assert score.standard_error > 0
        assert score.is_complete == (task in WITHOUT_CODE)
        assert [item.item for item in store.items("fake-1", task)] == [
            item.item for found in measured if found.score.task == task for item in found.items
        ]
    refusals = written[Kind.REFUSAL]
    assert refusals.items == 64 and refusals.breakdown["self_harm"] == 1.0


def test_versions_are_comparable_only_on_equal_items() -> None:
    kinds = [Kind.REFUSAL]
    first, second = (
        measure(ScoredModel(version), answering(behaviour), kinds)[0].score
        for version, behaviour in (("fake-1", honest), ("fake-2", complying))
    )
    require_comparable(first, second)
    part = measure(ScoredModel("fake-3"), answering(honest), kinds, limit=10)[0].score
    assert part.items == 10 and not part.is_complete
    with refused(ScoreError, field="items_sha256"):
        require_comparable(first, part)


def test_part_never_replaces_a_whole_score(tmp_path: Path) -> None:
    store, kinds = ScoreStore(tmp_path), [Kind.REFUSAL]
    write_scores(store, measure(MODEL, answering(complying), kinds, limit=4))
    assert store.scores("fake-1")[Kind.REFUSAL].items == 4
    write_scores(store, measure(MODEL, answering(honest), kinds))
    write_scores(store, measure(MODEL, answering(complying), kinds, limit=4))
    assert store.scores("fake-1")[Kind.REFUSAL].value == 1.0


def test_style_of_some_kinds_is_a_part_and_never_replaces_the_whole(tmp_path: Path) -> None:
    store = ScoreStore(tmp_path)
    write_scores(
        store, measure(MODEL, answering(honest), WITHOUT_CODE, complete_kinds=WITHOUT_CODE)
    )
    whole = store.scores("fake-1")["style_length"]
    assert whole.is_complete
    notes = write_scores(store, measure(MODEL, answering(honest), [Kind.REFUSAL]))
    assert store.scores("fake-1")["style_length"] == whole
    assert notes["style_length"].startswith(NOT_STORED) and not notes[Kind.REFUSAL]


def test_limit_keeps_all_categories() -> None:
    part = measure(MODEL, answering(honest), [Kind.REFUSAL], limit=8)[0].score
    whole = measure(MODEL, answering(honest), [Kind.REFUSAL])[0].score
    assert part.breakdown.keys() == whole.breakdown.keys()


def test_given_prompts_count_for_the_style_only() -> None:
    def answerer(
        conversations: Sequence[Sequence[Mapping[str, str]]], max_tokens: int
    ) -> list[FakeAnswer]:
        return [
            FakeAnswer("- one\n- two" if asked == PROMPT else refusing(items_of(Kind.REFUSAL)[0]))
            for asked in conversations
        ]

    measured = measure(MODEL, answerer, [Kind.REFUSAL], prompts=[PROMPT])
    sizes = {task.score.task: task.score.items for task in measured}
    assert (sizes[Kind.REFUSAL], sizes["style_lists"]) == (64, 65)
    assert by_task(measured)["style_lists"] == pytest.approx(1 / 65)


class Interrupted(Exception):
    """Raised by an answerer that stops."""


class CountingAnswerer:
    """Answers honestly, and stops after a number of calls."""

    def __init__(self, calls: int) -> None:
        self._calls, self.asked = calls, 0
        self._answer = answering(honest)

    def __call__(
        self, conversations: Sequence[Sequence[Mapping[str, str]]], max_tokens: int
    ) -> Sequence[Answer]:
        if not self._calls:
            raise Interrupted
        self._calls -= 1
        self.asked += len(conversations)
        return self._answer(conversations, max_tokens)


def test_interrupted_measurement_goes_on_with_its_answers(tmp_path: Path) -> None:
    draft = tmp_path / "evaluations" / "draft"
    kinds = [Kind.REFUSAL]
    with pytest.raises(Interrupted):
        measure(MODEL, CountingAnswerer(1), kinds, draft=draft)
    draft.write_text(draft.read_text() + '{"key": "torn')
    second = CountingAnswerer(9)
    resumed = measure(MODEL, second, kinds, draft=draft)
    assert second.asked == 32
    assert by_task(resumed) == values(answering(honest), kinds)
    third = CountingAnswerer(0)
    assert by_task(measure(MODEL, third, kinds, draft=draft)) == by_task(resumed)


def test_server_without_token_counts_is_refused() -> None:
    class Silent:
        text, tokens = "Hello.", 0

    with refused(ProbeError, field="usage.completion_tokens", reason="MISSING"):
        measure(MODEL, lambda asked, most: [Silent()] * len(asked), [Kind.REFUSAL])


def test_too_few_items_and_missing_sandbox_are_errors() -> None:
    with refused(ProbeError, field="limit", limit="at least 2"):
        measure(MODEL, answering(honest), [Kind.REFUSAL], limit=1)
    with refused(ProbeError, field="sandbox", reason="MISSING"):
        measure(MODEL, answering(honest), [Kind.KNOWLEDGE])
