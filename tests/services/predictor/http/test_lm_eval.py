"""The paths that lm-eval's client of completions needs, as in vLLM."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from services.predictor.errors import InvalidRequestError, PredictorError
from tests.services.predictor.conftest import KEY, Predictor, StartPredictor
from tests.services.predictor.model_directories import TEMPLATE

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_tokenizer_info_names_special_tokens_and_template(predictor: Predictor) -> None:
    status, found = await predictor.get("/tokenizer_info?model=tiny-1")

    assert status == 200
    assert found == {"bos_token": "<s>", "eos_token": "</s>", "chat_template": TEMPLATE}


async def test_the_only_version_needs_no_name(predictor: Predictor) -> None:
    _, named = await predictor.post("/tokenize", {"model": "tiny-1", "prompt": "abc"})
    _, ids = await predictor.post("/tokenize", {"prompt": "abc"})
    _, text = await predictor.post("/detokenize", {"tokens": ids["tokens"]})

    assert ids == named
    assert text == {"prompt": "abc"}
    assert (await predictor.get("/tokenizer_info"))[0] == 200


@pytest.mark.asyncio(loop_scope="function")
async def test_one_of_several_versions_must_be_named(
    start_predictor: StartPredictor,
    first_model: Path,
    second_model: Path,
    refusals: list[PredictorError],
) -> None:
    predictor = await start_predictor()
    await predictor.load("tiny-1", first_model)
    await predictor.load("tiny-2", second_model)

    for status, _ in (
        await predictor.get("/tokenizer_info"),
        await predictor.post("/tokenize", {"prompt": "abc"}),
        await predictor.post("/detokenize", {"tokens": [1]}),
    ):
        assert status == 400
    assert [type(error) for error in refusals] == [InvalidRequestError] * 3
    assert {(error.param, error.reason) for error in refusals} == {("model", "MISSING")}


async def test_echo_reports_the_end_token(predictor: Predictor) -> None:
    """lm-eval drops the last log-prob as that of the generated token."""
    body: dict[str, Any] = {"model": "tiny-1", "prompt": "abc", "max_tokens": 1, "temperature": 0}
    _, free = await predictor.post("/v1/completions", {**body, "return_token_ids": True})
    (greedy,) = free["choices"][0]["token_ids"]
    ending = {**body, "stop_token_ids": [greedy], "echo": True, "logprobs": 1}

    _, scored = await predictor.post("/v1/completions", ending)

    choice = scored["choices"][0]
    assert choice["finish_reason"] == "stop"
    assert len(choice["logprobs"]["token_logprobs"]) == len("abc") + 1
    assert len(choice["logprobs"]["top_logprobs"]) == len("abc") + 1


@pytest.mark.long  # the import of lm-eval takes seconds
async def test_the_unmodified_client_of_lm_eval_works(predictor: Predictor) -> None:
    """Scores equal those of the server's own log-probs, also in a batch."""
    pairs = [("The sky is", " blue"), ("Two and two make", " four"), ("a", "b")]

    def score() -> list[tuple[float, bool]]:
        from lm_eval.api.instance import Instance
        from lm_eval.models.openai_completions import LocalCompletionsAPI
        from lm_eval.utils import check_remote_tokenizer_support

        client = LocalCompletionsAPI(
            base_url=f"{predictor.url}/v1/completions",
            model="tiny-1",
            auth_token=KEY,
            header={"Authorization": f"Bearer {KEY}"},
            tokenizer_backend="remote",  # without it, a hub is asked if the paths are missing
            batch_size=2,
            max_length=512,
        )
        assert check_remote_tokenizer_support(predictor.url, auth_token=KEY)
        requests = [Instance("loglikelihood", {}, pair, place) for place, pair in enumerate(pairs)]
        found = client.loglikelihood(requests, disable_tqdm=True)
        (text,) = client.generate_until(
            [Instance("generate_until", {}, ("abc", {"until": ["\n"], "max_gen_toks": 4}), 0)],
            disable_tqdm=True,
        )
        assert isinstance(text, str)
        return [tuple(one) for one in found]

    found = await asyncio.to_thread(score)

    for (context, continuation), (value, _) in zip(pairs, found, strict=True):
        body = {"prompt": context + continuation, "max_tokens": 0, "echo": True, "logprobs": 1}
        _, scored = await predictor.post("/v1/completions", {"model": "tiny-1", **body})
        expected = scored["choices"][0]["logprobs"]["token_logprobs"][len(context) :]
        assert value == pytest.approx(sum(expected), abs=1e-4)
