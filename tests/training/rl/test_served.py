"""Served answers compared with the starting model: equal weights agree, differences are found."""

import math
import re
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.support.errors import refused
from tests.training.rl.served_toy import answers_of, served_rows, sharp_model
from training.data.chat import Chat, load_chat
from training.data.served import SampleError, Served
from training.data.tensors import TokenisedExample
from training.errors import ConfigError
from training.model.backbone import Backbone
from training.model.checkpoint import load_decoder
from training.rl.served import (
    OTHER_PROMPT,
    OTHER_TEXT,
    WITHOUT_END,
    Measured,
    OffPolicyConfig,
    OffPolicyError,
    ServedAnswer,
    compare_log_probs,
    figures_of,
    measure,
)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return sharp_model(tmp_path_factory.mktemp("served") / "toy-0")


@pytest.fixture(scope="module")
def chat(served: Path) -> Chat:
    return load_chat(served)


@pytest.fixture(scope="module")
def answers(served: Path, chat: Chat) -> list[ServedAnswer]:
    return answers_of(served_rows(served, 12), chat)


def held(
    directory: Path, answers: list[ServedAnswer], **rules: object
) -> tuple[list[ServedAnswer], dict[str, object]]:
    config = OffPolicyConfig(**rules)  # type: ignore[arg-type]
    return compare_log_probs(
        lambda: Backbone(load_decoder(directory)), directory.name, answers, config, 5, nullcontext
    )


def test_equal_weights_give_the_served_log_probs(served: Path, answers: list[ServedAnswer]) -> None:
    measured = measure(Backbone(load_decoder(served)), answers, 5, nullcontext)
    assert [len(one.trainer_N) for one in measured] == [
        len(answer.example.response) for answer in answers
    ]
    assert len({len(one.trainer_N) for one in measured}) > 2
    for one in measured:
        assert torch.allclose(one.trainer_N, one.served_N, atol=1e-4)
    assert any(float(one.served_N.min()) < -1 for one in measured)


def test_sampled_ids_are_used_even_if_the_text_has_other_tokens(
    answers: list[ServedAnswer], chat: Chat
) -> None:
    assert all(
        answer.served and answer.example.response == answer.served.token_ids for answer in answers
    )
    assert any(
        chat.response_ids(chat.decode(answer.example.response)) != list(answer.example.response)
        for answer in answers
    )


def counts(error: Exception) -> list[str]:
    """Return the numbers in an error's text, except for those in versions."""
    return re.findall(r"\b\d+\b", re.sub(r"toy-\d", "", str(error)))


OTHER_LOG_PROBS = {
    "field": "off_policy.mismatch_limit_nats",
    "reason": "MISMATCH",
    "limit": "at most 0.2",
}


def test_other_weights_with_the_same_name_are_rejected_with_the_figure(
    answers: list[ServedAnswer], tmp_path: Path
) -> None:
    other = sharp_model(tmp_path / "toy-0", seed=2)
    with refused(OffPolicyError, **OTHER_LOG_PROBS) as caught:
        held(other, answers)
    _, told = held(other, answers, mismatch_limit_nats=100.0)
    mismatch = told["off_policy"]["toy-0"]["mismatch"]  # type: ignore[index]
    assert mismatch > 1
    assert "toy-0" in str(caught.value)
    assert f"{mismatch:.3g}" in str(caught.value)


def test_shifted_log_probs_are_detected(served: Path, answers: list[ServedAnswer]) -> None:
    def shifted(answer: ServedAnswer) -> ServedAnswer:
        assert answer.served
        scores = answer.served.log_probs
        return replace(answer, served=replace(answer.served, log_probs=(*scores[1:], scores[0])))

    with refused(OffPolicyError, **OTHER_LOG_PROBS):
        held(served, [shifted(answer) for answer in answers])


def test_log_probs_at_the_sampling_temperature_are_detected(
    served: Path, answers: list[ServedAnswer]
) -> None:
    """Simulate a server with processed log-probs (vLLM's logprobs_mode)."""
    processed = [
        replace(
            answer,
            served=replace(
                answer.served,
                log_probs=tuple(min(0.0, 2 * x + 0.5) for x in answer.served.log_probs),
            ),
        )
        for answer in answers
        if answer.served
    ]
    with refused(OffPolicyError, **OTHER_LOG_PROBS):
        held(served, processed)


def test_other_template_is_detected_by_the_prompt_length(served: Path, chat: Chat) -> None:
    longer = answers_of(served_rows(served, 4), chat, prompt_tokens=3)
    assert [answer.unfit for answer in longer] == [OTHER_PROMPT] * 4
    with refused(OffPolicyError, field="served", reason="MISMATCH", limit="at most 5%") as caught:
        held(served, longer)
    assert "toy-0" in str(caught.value)
    assert OTHER_PROMPT in str(caught.value)
    assert counts(caught.value) == ["4", "4"]
    unknown = answers_of(served_rows(served, 4), chat, prompt_tokens=0)
    assert not any(answer.unfit for answer in unknown)


@pytest.mark.parametrize(
    ("token_ids", "reason"), [((5, 6, 7), WITHOUT_END), ((5, 6, None), OTHER_TEXT)]
)
def test_tokens_of_another_tokenizer_are_detected(
    served: Path, chat: Chat, token_ids: tuple[int | None, ...], reason: str
) -> None:
    ids = tuple(chat.end_id if token is None else token for token in token_ids)
    (answer,) = answers_of(served_rows(served, 1), chat, token_ids=ids, log_probs=(-1.0,) * 3)
    assert answer.unfit == reason
    assert answer.example.response[-1] == chat.end_id
    assert answer.example.response != ids


def test_unfit_answers_of_other_versions_are_used_as_text_and_counted(
    served: Path, chat: Chat
) -> None:
    others = answers_of(served_rows(served, 4), chat, version="toy-9", prompt_tokens=3)
    weighed, figures = held(served, others, importance_cap=2.0)
    assert figures == {"answers_unsampled": 0, "answers_unfit": 4, "off_policy": {}}
    assert [answer.example.weight for answer in weighed] == [1.0] * 4


def test_disallowed_versions_and_unsampled_answers_are_rejected(
    served: Path, answers: list[ServedAnswer]
) -> None:
    foreign = [
        replace(answer, served=replace(answer.served, version="toy-7"))
        for answer in answers[:2]
        if answer.served
    ]
    unknown = [ServedAnswer(answers[0].example)]
    everything = [*answers, *foreign, *unknown]
    with refused(
        OffPolicyError, field="off_policy.versions", reason="UNKNOWN", limit="toy-0, toy-1"
    ) as caught:
        held(served, everything, versions=("toy-1",))
    assert "toy-7" in str(caught.value)
    assert counts(caught.value) == ["1", "2"], "without a sample, and of toy-7"
    held(served, [*answers, *foreign], versions=("toy-7",))
    _, figures = held(served, everything)
    assert figures["answers_unsampled"] == 1
    assert set(figures["off_policy"]) == {"toy-0", "toy-7"}  # type: ignore[call-overload]


def test_few_unfit_answers_are_accepted_and_many_are_rejected(
    served: Path, answers: list[ServedAnswer]
) -> None:
    many = [*answers, *answers]
    odd = [replace(many[0], unfit=OTHER_TEXT), *many[1:]]
    _, figures = held(served, odd)
    assert figures["answers_unfit"] == 1
    with refused(OffPolicyError, field="served", reason="MISMATCH", limit="at most 5%") as caught:
        held(served, [*odd[:-1], replace(many[0], unfit=OTHER_TEXT)])
    assert counts(caught.value) == ["2", "24"]


def test_model_is_not_loaded_without_samples(served: Path) -> None:
    def load() -> Backbone:
        raise AssertionError("a model is loaded for nothing")

    plain = [ServedAnswer(TokenisedExample((1, 2), (3,)))]
    weighed, figures = compare_log_probs(
        load, "toy-0", plain, OffPolicyConfig(importance_cap=2.0), 5, nullcontext
    )
    assert weighed == plain
    assert figures == {"answers_unsampled": 1, "answers_unfit": 0, "off_policy": {}}


def test_answer_weight_is_the_likelihood_ratio_up_to_the_cap(
    served: Path, answers: list[ServedAnswer]
) -> None:
    def moved(answer: ServedAnswer, nats: float) -> ServedAnswer:
        """Return an answer whose last token was less likely when served, by this factor."""
        assert answer.served
        *others, last = answer.served.log_probs
        served = replace(answer.served, version="toy-7", log_probs=(*others, last - nats))
        return replace(answer, served=served)

    given = [
        ServedAnswer(answers[3].example),
        answers[0],
        moved(answers[1], 0.5),
        moved(answers[2], 3.0),
    ]
    weighed, figures = held(served, given, importance_cap=2.0)
    wanted = [1.0, 1.0, math.exp(0.5), 2.0]
    assert [answer.example.weight for answer in weighed] == pytest.approx(wanted, rel=1e-3)
    by_version = figures["off_policy"]
    assert by_version["toy-7"]["importance"] == pytest.approx((math.exp(0.5) + 2) / 2, rel=1e-3)  # type: ignore[index]
    assert by_version["toy-7"]["at_cap"] == 0.5  # type: ignore[index]
    unweighed, told = held(served, given)
    assert unweighed == given
    assert "importance" not in told["off_policy"]["toy-7"]  # type: ignore[index]


@pytest.mark.parametrize("top_p", [0.9, 0.0])
def test_answers_from_a_nucleus_are_never_weighted(
    served: Path, answers: list[ServedAnswer], top_p: float
) -> None:
    """Served presets have top_p 0.1 to 0.95; 0 is a value that the event does not have."""
    cut = [
        replace(answer, served=replace(answer.served, top_p=top_p))
        for answer in answers[:3]
        if answer.served
    ]
    given = [*cut, *answers[3:]]
    with refused(OffPolicyError, field="served.top_p", reason="CONFLICT") as caught:
        held(served, given, importance_cap=2.0)
    assert f"toy-0 at {top_p:g} (3)" in str(caught.value)
    held(served, answers, importance_cap=2.0)
    # Without weights they train as all others, and their log-probs are compared.
    weighed, figures = held(served, given)
    assert weighed == given
    assert figures["off_policy"]["toy-0"]["answers"] == len(given)  # type: ignore[index]
    # A sample that does not match its answer has no weight in any case.
    unfit = [replace(answer, unfit=OTHER_TEXT) for answer in cut]
    held(served, [*unfit[:1], *answers, *answers], importance_cap=2.0)


def test_weighted_responses_have_the_expectation_of_the_starting_model() -> None:
    """Use all responses of two tokens out of three.

    The weighted expectation under the served policy equals that of the starting model.
    """
    dice = torch.Generator().manual_seed(0)
    start_33, serving_33 = (torch.randn(3, 3, generator=dice).log_softmax(-1) for _ in range(2))
    worth_33 = torch.randn(3, 3, generator=dice)
    found = wanted = unweighed = 0.0
    for first in range(3):
        for second in range(3):
            trainer, sampler = (
                torch.stack((table[0, first], table[first, second]))
                for table in (start_33, serving_33)
            )
            likely, worth = float(sampler.sum().exp()), float(worth_33[first, second])
            found += likely * Measured("v", trainer, sampler).importance(1e9) * worth
            unweighed += likely * worth
            wanted += float(trainer.sum().exp()) * worth
    assert found == pytest.approx(wanted, abs=1e-6)
    assert abs(unweighed - wanted) > 0.05


def test_figures_are_per_token_and_version() -> None:
    near = Measured("a", torch.tensor([-1.0, -2.0]), torch.tensor([-1.5, -2.0]))
    far = Measured("a", torch.tensor([-1.0]), torch.tensor([-4.0]))
    other = Measured("b", torch.tensor([-1.0]), torch.tensor([-1.0]))
    figures = figures_of([near, other, far], OffPolicyConfig())
    assert figures["a"]["mismatch"] == pytest.approx(3.5 / 3)
    assert (figures["a"]["answers"], figures["a"]["tokens"]) == (2, 3)
    assert figures["b"] == {"answers": 1, "tokens": 1, "mismatch": 0.0, "kl": 0.0}
    assert figures["a"]["kl"] > 0


@pytest.mark.parametrize(
    ("field", "value", "limit"),
    [("mismatch_limit_nats", 0.0, "above 0"), ("importance_cap", 0.5, "at least 1")],
)
def test_invalid_settings_are_rejected(field: str, value: float, limit: str) -> None:
    with refused(ConfigError, field=field, reason="OUT_OF_RANGE", limit=limit):
        OffPolicyConfig(**{field: value})  # type: ignore[arg-type]


def test_sample_must_be_complete() -> None:
    with refused(SampleError, field="log_probs", reason="MISMATCH", limit="2"):
        Served("v", (1, 2), (-1.0,))
