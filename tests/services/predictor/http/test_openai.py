"""The API of OpenAI, with a real tiny model on a loopback port."""

import json
from typing import Any

import openai
import pytest

from services.predictor.engine.generation import Sampling
from tests.services.predictor.conftest import KEY, Predictor

pytestmark = pytest.mark.asyncio(loop_scope="module")

HELLO = [{"role": "user", "content": "hello"}]
GREEDY = {"model": "tiny-1", "temperature": 0, "max_tokens": 24, "ignore_eos": True}


async def events(predictor: Predictor, path: str, body: dict[str, Any]) -> list[Any]:
    """Return the parsed events of a stream, with [DONE] as None."""
    found = []
    async with predictor.client.post(
        predictor.url + path, json={**body, "stream": True}
    ) as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/event-stream"
        async for line in response.content:
            if line.startswith(b"data: "):
                data = line.removeprefix(b"data: ").strip()
                found.append(None if data == b"[DONE]" else json.loads(data))
    return found


async def test_a_streamed_chat_equals_the_complete_one(predictor: Predictor) -> None:
    body = {**GREEDY, "messages": HELLO}
    status, complete = await predictor.post("/v1/chat/completions", body)
    assert status == 200
    choice = complete["choices"][0]
    assert choice["finish_reason"] == "length"
    assert complete["usage"]["completion_tokens"] == 24
    assert complete["usage"]["total_tokens"] == complete["usage"]["prompt_tokens"] + 24

    chunks = await events(
        predictor, "/v1/chat/completions", {**body, "stream_options": {"include_usage": True}}
    )
    assert chunks[-1] is None
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert chunks[-2]["choices"] == []
    assert chunks[-2]["usage"] == complete["usage"]
    assert chunks[-3]["choices"][0]["finish_reason"] == "length"
    texts = [chunk["choices"][0]["delta"].get("content", "") for chunk in chunks[:-2]]
    assert "".join(texts) == choice["message"]["content"]


async def test_a_prompt_of_token_ids_equals_its_text(predictor: Predictor) -> None:
    _, ids = await predictor.post("/tokenize", {"model": "tiny-1", "prompt": "abc"})
    assert ids["count"] == len(ids["tokens"]) == 3
    assert ids["max_model_len"] == 64 * 32
    _, back = await predictor.post("/detokenize", {"model": "tiny-1", "tokens": ids["tokens"]})
    assert back == {"prompt": "abc"}
    _, by_text = await predictor.post("/v1/completions", {**GREEDY, "prompt": "abc"})
    _, by_ids = await predictor.post("/v1/completions", {**GREEDY, "prompt": ids["tokens"]})
    assert by_text["choices"] == by_ids["choices"]


async def test_tokenize_counts_messages_with_the_chat_template(predictor: Predictor) -> None:
    _, counted = await predictor.post("/tokenize", {"model": "tiny-1", "messages": HELLO})
    _, answered = await predictor.post("/v1/chat/completions", {**GREEDY, "messages": HELLO})
    assert counted["count"] == answered["usage"]["prompt_tokens"] == len("hello") + 3


async def test_several_prompts_return_one_choice_each_in_order(predictor: Predictor) -> None:
    _, both = await predictor.post("/v1/completions", {**GREEDY, "prompt": ["abc", "xyz"]})
    assert [choice["index"] for choice in both["choices"]] == [0, 1]
    for choice, prompt in zip(both["choices"], ("abc", "xyz"), strict=True):
        _, alone = await predictor.post("/v1/completions", {**GREEDY, "prompt": prompt})
        assert choice["text"] == alone["choices"][0]["text"]


async def test_equal_seeds_give_equal_texts_and_no_seed_gives_others(predictor: Predictor) -> None:
    body = {
        "model": "tiny-1",
        "messages": HELLO,
        "max_tokens": 24,
        "ignore_eos": True,
        "temperature": 1.5,
    }

    async def text(**changes: Any) -> str:
        _, reply = await predictor.post("/v1/chat/completions", {**body, **changes})
        content: str = reply["choices"][0]["message"]["content"]
        return content

    assert await text(seed=5) == await text(seed=5)
    assert len({await text() for _ in range(4)}) > 1


@pytest.mark.parametrize("stream", [False, True])
async def test_a_stop_string_ends_the_text_before_it(predictor: Predictor, stream: bool) -> None:
    body = {**GREEDY, "messages": HELLO, "max_tokens": 60}
    _, free = await predictor.post("/v1/chat/completions", body)
    text: str = free["choices"][0]["message"]["content"]
    stop = text[8:11]
    expected = text[: text.index(stop)]
    if stream:
        chunks = await events(
            predictor, "/v1/chat/completions", {**body, "stop": [stop, "never there"]}
        )
        got = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks[:-1])
        reason = chunks[-2]["choices"][0]["finish_reason"]
    else:
        _, reply = await predictor.post(
            "/v1/chat/completions", {**body, "stop": [stop, "never there"]}
        )
        got, reason = (
            reply["choices"][0]["message"]["content"],
            reply["choices"][0]["finish_reason"],
        )
        assert reply["usage"]["completion_tokens"] < 60
    assert (got, reason) == (expected, "stop")


async def test_an_end_token_stops_without_text(predictor: Predictor) -> None:
    body = {**GREEDY, "prompt": "abc", "logprobs": 0}
    _, free = await predictor.post("/v1/completions", body)
    _, ids = await predictor.post(
        "/tokenize", {"model": "tiny-1", "prompt": free["choices"][0]["text"]}
    )
    ascii_tokens = [token for token in free["choices"][0]["logprobs"]["tokens"] if token.isascii()]
    target = ascii_tokens[3]
    _, target_ids = await predictor.post("/tokenize", {"model": "tiny-1", "prompt": target})
    stopping = {**body, "ignore_eos": False, "stop_token_ids": target_ids["tokens"]}
    _, stopped = await predictor.post("/v1/completions", stopping)
    choice = stopped["choices"][0]
    assert choice["finish_reason"] == "stop"
    assert free["choices"][0]["text"].startswith(choice["text"])
    assert target not in choice["text"]
    assert stopped["usage"]["completion_tokens"] == len(choice["logprobs"]["tokens"]) + 1
    assert ids["count"] > 0


async def test_log_probs_belong_to_the_chosen_tokens(predictor: Predictor) -> None:
    _, reply = await predictor.post(
        "/v1/chat/completions", {**GREEDY, "messages": HELLO, "logprobs": True}
    )
    scores = reply["choices"][0]["logprobs"]["content"]
    assert len(scores) == 24
    assert all(score["logprob"] <= 0 and score["top_logprobs"] == [] for score in scores)
    chunks = await events(
        predictor, "/v1/chat/completions", {**GREEDY, "messages": HELLO, "logprobs": True}
    )
    streamed = [
        score
        for chunk in chunks[:-1]
        for score in (chunk["choices"][0]["logprobs"] or {"content": []})["content"]
    ]
    assert [score["token"] for score in streamed] == [score["token"] for score in scores]
    assert [score["logprob"] for score in streamed] == pytest.approx(
        [score["logprob"] for score in scores], abs=1e-4
    )


async def test_token_ids_have_log_probs_and_include_the_end_token_as_in_vllm(
    predictor: Predictor,
) -> None:
    asked = {
        "model": "tiny-1",
        "messages": HELLO,
        "temperature": 0,
        "logprobs": True,
        "return_token_ids": True,
    }
    _, free = await predictor.post(
        "/v1/chat/completions", {**asked, "max_tokens": 24, "ignore_eos": True}
    )
    choice = free["choices"][0]
    assert len(choice["token_ids"]) == len(choice["logprobs"]["content"]) == 24
    stopping = {**asked, "max_tokens": 24, "stop_token_ids": [choice["token_ids"][5]]}
    first = choice["token_ids"].index(choice["token_ids"][5]) + 1
    _, complete = await predictor.post("/v1/chat/completions", stopping)
    stopped = complete["choices"][0]
    assert stopped["finish_reason"] == "stop"
    assert stopped["token_ids"] == choice["token_ids"][:first]
    assert len(stopped["logprobs"]["content"]) == first == complete["usage"]["completion_tokens"]
    _, text = await predictor.post(
        "/detokenize", {"model": "tiny-1", "tokens": stopped["token_ids"][:-1]}
    )
    # An incomplete character at the end is not part of the content.
    assert text["prompt"].rstrip("\ufffd") == stopped["message"]["content"]
    chunks = [
        chunk["choices"][0]
        for chunk in (await events(predictor, "/v1/chat/completions", stopping))[:-1]
    ]
    assert [token for chunk in chunks for token in chunk["token_ids"]] == stopped["token_ids"]
    assert all(
        len(chunk["token_ids"]) == len((chunk["logprobs"] or {"content": []})["content"])
        for chunk in chunks
    )


async def test_token_ids_and_log_probs_are_returned_only_on_request(
    predictor: Predictor,
) -> None:
    body = {**GREEDY, "prompt": "abc", "return_token_ids": True}
    _, reply = await predictor.post("/v1/completions", body)
    assert len(reply["choices"][0]["token_ids"]) == 24
    assert reply["choices"][0]["logprobs"] is None
    _, plain = await predictor.post("/v1/completions", {**GREEDY, "prompt": "abc", "logprobs": 0})
    assert "token_ids" not in plain["choices"][0]
    prompt = await predictor.post("/tokenize", {"model": "tiny-1", "prompt": "abc"})
    assert reply["choices"][0]["token_ids"] == await _greedy_ids(
        predictor.repository.get("tiny-1"), prompt[1]["tokens"], 24
    )
    chunks = await events(predictor, "/v1/completions", body)
    assert [token for chunk in chunks[:-1] for token in chunk["choices"][0]["token_ids"]] == reply[
        "choices"
    ][0]["token_ids"]


async def test_echo_scores_the_prompt_for_lm_eval_also_when_cached(
    predictor: Predictor,
) -> None:
    """Scores of the greedy continuation equal those of its generation, and are the highest."""
    _, start = await predictor.post(
        "/tokenize", {"model": "tiny-1", "prompt": "a prompt longer than one block of cache"}
    )
    generating = {**GREEDY, "prompt": start["tokens"], "logprobs": 1, "max_tokens": 20}
    _, generated = await predictor.post("/v1/completions", generating)
    expected = generated["choices"][0]["logprobs"]["token_logprobs"]
    version = predictor.repository.get("tiny-1")
    assert len(expected) == 20
    continuation = await _greedy_ids(version, start["tokens"], 20)
    for _ in range(2):
        scoring = {
            **GREEDY,
            "prompt": start["tokens"] + continuation,
            "max_tokens": 1,
            "echo": True,
            "logprobs": 1,
        }
        _, scored = await predictor.post("/v1/completions", scoring)
        found = scored["choices"][0]["logprobs"]
        assert found["token_logprobs"][0] is None
        assert len(found["tokens"]) == start["count"] + 20 + 1
        span = slice(start["count"], -1)
        assert found["token_logprobs"][span] == pytest.approx(expected, abs=1e-3)
        pairs = zip(found["token_logprobs"][span], found["top_logprobs"][span], strict=True)
        assert all(own == max(top.values()) for own, top in pairs)
        prompt_pairs = zip(found["token_logprobs"][1:40], found["top_logprobs"][1:40], strict=True)
        assert any(own < max(top.values()) for own, top in prompt_pairs)


async def _greedy_ids(version: Any, prompt: list[int], count: int) -> list[int]:
    sampling = Sampling(
        max_new_tokens=count, end_ids=version.end_ids, seed=0, temperature=0, ignore_eos=True
    )
    return [token async for batch in version.engine.submit(prompt, sampling) for token in batch.ids]


async def test_echo_without_new_tokens_scores_the_prompt(predictor: Predictor) -> None:
    body = {"model": "tiny-1", "prompt": "abc", "max_tokens": 0, "echo": True, "logprobs": 1}
    _, reply = await predictor.post("/v1/completions", body)
    assert reply["choices"][0]["text"] == "abc"
    assert reply["choices"][0]["logprobs"]["text_offset"] == [0, 1, 2]
    assert reply["usage"]["completion_tokens"] == 0


@pytest.mark.parametrize("kept", [0, 1, 30, 60], ids="{} shared".format)
async def test_scores_are_equal_whether_prompts_share_a_beginning_or_not(
    predictor: Predictor, kept: int
) -> None:
    _, start = await predictor.post("/tokenize", {"model": "tiny-1", "prompt": "a prompt " * 8})
    ids = start["tokens"]
    prompts = [ids, [*ids[:kept], *reversed(ids[:20])], [*ids[:kept], ids[5]], ids, ids]
    differing_at_the_end = [[*ids[:-1], last] for last in ids[:3]]
    prompts += [*differing_at_the_end, ids[:9], [*ids[:8], ids[0]]]
    scoring = {"model": "tiny-1", "max_tokens": 0, "echo": True, "logprobs": 1}

    _, together = await predictor.post("/v1/completions", {**scoring, "prompt": prompts})

    for prompt, choice in zip(prompts, together["choices"], strict=True):
        _, alone = await predictor.post("/v1/completions", {**scoring, "prompt": prompt})
        found, expected = (
            reply["logprobs"]["token_logprobs"] for reply in (choice, alone["choices"][0])
        )
        assert len(found) == len(prompt)
        assert found[1:] == pytest.approx(expected[1:], abs=1e-3)


async def test_the_unmodified_openai_package_works(predictor: Predictor) -> None:
    async with openai.AsyncOpenAI(
        base_url=f"{predictor.url}/v1", api_key=KEY, max_retries=0
    ) as client:
        assert [model.id async for model in client.models.list()] == ["tiny-1"]
        complete = await client.chat.completions.create(
            model="tiny-1",
            messages=[{"role": "user", "content": "hello"}],
            temperature=0,
            max_tokens=16,
        )
        stream = await client.chat.completions.create(
            model="tiny-1",
            messages=[{"role": "user", "content": "hello"}],
            temperature=0,
            max_tokens=16,
            stream=True,
            stream_options={"include_usage": True},
        )
        text, counted = "", 0
        async for chunk in stream:
            text += chunk.choices[0].delta.content or "" if chunk.choices else ""
            counted = chunk.usage.completion_tokens if chunk.usage else counted
        assert text == complete.choices[0].message.content
        assert complete.usage is not None
        assert counted == complete.usage.completion_tokens
        completion = await client.completions.create(
            model="tiny-1", prompt="abc", max_tokens=4, logprobs=1
        )
        assert completion.choices[0].logprobs is not None
        with pytest.raises(openai.NotFoundError):
            await client.completions.create(model="unknown", prompt="abc")
        with pytest.raises(openai.BadRequestError) as caught:
            await client.completions.create(model="tiny-1", prompt="abc", temperature=9)
        assert caught.value.param == "temperature"
