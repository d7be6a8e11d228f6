"""Decoding gives the tokens of transformers' `generate`, and sampling the same distribution."""

import itertools

import pytest
import torch
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from tests.training.decoding.families import FAMILIES, PROMPTS, pair, without_padding
from training.data.tensors import pad
from training.decoding.beam import beam_search
from training.decoding.config import BeamConfig, EarlyStopping, Rules
from training.decoding.rows import Rows, stop_at
from training.decoding.sampling import apply_rules, sample

NEW = 14
STOP_IDS = list(range(10, 50))  # many, so that beams end early and often
EARLY_STOPPING = {
    EarlyStopping.AT_ONCE: True,
    EarlyStopping.UNLIKELY: False,
    EarlyStopping.HOPELESS: "never",
}


def greedy(family: str, rules: Rules, stop_ids: list[int]) -> list[tuple[int, ...]]:
    rows = Rows(pair(family).ours, PROMPTS, NEW)
    return [
        continuation.ids for continuation in sample(rows, rules, stop_at(stop_ids), NEW, [0, 0, 0])
    ]


def common_token(rows: list[list[int]]) -> int:
    """Return a token from the middle of a greedy row."""
    return rows[0][NEW // 2]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("penalty", [1.0, 1.7, 0.8])
def test_greedy_decoding_equals_transformers(family: str, penalty: float) -> None:
    whole = pair(family).generate(
        PROMPTS, max_new_tokens=NEW, do_sample=False, repetition_penalty=penalty
    )
    rules = Rules(temperature=0, repetition_penalty=penalty)
    assert greedy(family, rules, []) == [tuple(row) for row in whole]
    stop = [common_token(whole), whole[1][3]]
    expected = pair(family).generate(
        PROMPTS, max_new_tokens=NEW, do_sample=False, repetition_penalty=penalty, eos_token_id=stop
    )
    found = greedy(family, rules, stop)
    assert found == [without_padding(row, stop) for row in expected]
    assert min(map(len, found)) < NEW


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("stopping", "length_penalty", "penalty"),
    [
        (EarlyStopping.AT_ONCE, 1.0, 1.0),
        (EarlyStopping.UNLIKELY, 1.0, 1.0),
        (EarlyStopping.UNLIKELY, 2.5, 1.3),
        (EarlyStopping.UNLIKELY, -0.7, 1.0),
        (EarlyStopping.HOPELESS, 2.5, 1.0),
        (EarlyStopping.HOPELESS, 0.0, 1.3),
    ],
)
def test_beam_search_equals_transformers(
    family: str, stopping: EarlyStopping, length_penalty: float, penalty: float
) -> None:
    expected = pair(family).generate(
        PROMPTS,
        max_new_tokens=NEW,
        do_sample=False,
        num_beams=3,
        num_return_sequences=3,
        length_penalty=length_penalty,
        early_stopping=EARLY_STOPPING[stopping],
        repetition_penalty=penalty,
        eos_token_id=STOP_IDS,
    )
    beams = BeamConfig(3, length_penalty, stopping, penalty)
    found = [
        continuation.ids
        for best in beam_search(pair(family).ours, PROMPTS, beams, NEW, STOP_IDS)
        for continuation in best
    ]
    assert found == [without_padding(row, STOP_IDS) for row in expected]


@pytest.mark.parametrize("family", FAMILIES)
def test_beam_settings_give_different_results(family: str) -> None:
    """Otherwise the comparison would not exercise the stopping rules."""
    found = {
        (stopping, length_penalty): str(
            beam_search(
                pair(family).ours, PROMPTS, BeamConfig(3, length_penalty, stopping), NEW, STOP_IDS
            )
        )
        for stopping in EarlyStopping
        for length_penalty in (0.0, 1.0, 2.5)
    }
    assert len({found[stopping, 1.0] for stopping in EarlyStopping}) == 3
    assert len(set(found.values())) >= 6


def test_beams_without_a_stop_token_run_to_the_limit() -> None:
    expected = pair("gpt2").generate(PROMPTS, max_new_tokens=NEW, do_sample=False, num_beams=4)
    found = beam_search(pair("gpt2").ours, PROMPTS, BeamConfig(4), NEW, [])
    assert [best[0].ids for best in found] == [tuple(row) for row in expected]
    assert [len(best) for best in found] == [4, 4, 4]


def test_one_beam_equals_greedy_decoding() -> None:
    found = beam_search(pair("gpt2").ours, PROMPTS, BeamConfig(1), NEW, [])
    assert [best[0].ids for best in found] == greedy("gpt2", Rules(temperature=0), [])


RULES = [
    Rules(temperature=t, top_k=k, top_p=p, min_p=m, repetition_penalty=r)
    for t, k, p, m, r in itertools.product(
        (0.3, 1.0, 1.6), (0, 5), (0.5, 0.9, 1.0), (0.0, 0.1), (1.0, 1.4)
    )
]


@pytest.mark.parametrize("family", FAMILIES)
def test_sampling_rules_give_transformers_distribution(family: str) -> None:
    ids_BS, mask_BS = pad(PROMPTS, side="left")
    with torch.no_grad():
        logits_BV = Rows(pair(family).ours, PROMPTS, 1).next_logits()
    cut = set()
    for rules in RULES:
        theirs = LogitsProcessorList()
        if rules.repetition_penalty != 1:
            starts = (mask_BS != 0).int().argmax(1)
            theirs.append(
                RepetitionPenaltyLogitsProcessor(
                    rules.repetition_penalty, prompt_ignore_length=starts
                )
            )
        theirs.append(TemperatureLogitsWarper(rules.temperature))
        if rules.top_k:
            theirs.append(TopKLogitsWarper(rules.top_k))
        if rules.top_p < 1:
            theirs.append(TopPLogitsWarper(rules.top_p))
        if rules.min_p:
            theirs.append(MinPLogitsWarper(rules.min_p))
        expected_BV = theirs(ids_BS, logits_BV.clone()).softmax(-1)
        found_BV = apply_rules(rules, logits_BV, ids_BS, mask_BS).softmax(-1)
        assert (found_BV - expected_BV).abs().max() < 1e-6, rules
        assert torch.equal(found_BV > 0, expected_BV > 0), rules
        cut.add(int((found_BV > 0).sum()))
    assert len(cut) > 6  # the settings keep different numbers of tokens
