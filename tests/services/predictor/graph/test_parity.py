"""The graph compared with transformers in fp32.

Logits by plain inference in two chunks, and greedy tokens through the paged engine.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import openvino as ov
import openvino_genai
import pytest
import torch
import transformers

from services.predictor.graph.conversion import IR_NAME, convert
from services.predictor.graph.weights import WeightFormat
from tests.services.predictor import checkpoints
from tests.services.predictor.prompts import EXACT, PROMPT_TOKENS, prompt

NEW_TOKENS = 40

MODELS: dict[str, Callable[[], transformers.PreTrainedModel]] = {
    "llama, tied, head 16": checkpoints.llama,
    "llama, untied, head 32": lambda: checkpoints.llama(tie_word_embeddings=False, head_dim=32),
    "llama, llama3 rope": lambda: checkpoints.llama(rope_parameters=checkpoints.LLAMA3_ROPE),
    "llama, linear rope": lambda: checkpoints.llama(
        rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
    ),
    "llama, head 64, no grouping": lambda: checkpoints.llama(head_dim=64, num_key_value_heads=4),
    "qwen2": checkpoints.qwen2,
    "qwen2, sliding from layer 1": lambda: checkpoints.qwen2(
        use_sliding_window=True, sliding_window=24, max_window_layers=1
    ),
    "qwen3": checkpoints.qwen3,
    "gemma3": checkpoints.gemma3,
}


def plain_logits(ir: Path, ids: list[int]) -> np.ndarray:
    """Return logits [T, V] of stateful inference in two chunks, so that the cache is used."""
    request = ov.Core().compile_model(ir / IR_NAME, "CPU", EXACT).create_infer_request()
    parts, done = [], 0
    for chunk in (ids[:31], ids[31:]):
        total = done + len(chunk)
        parts.append(
            request.infer(
                {
                    "input_ids": np.array([chunk], np.int64),
                    "attention_mask": np.ones((1, total), np.int64),
                    "position_ids": np.arange(done, total)[None],
                    "beam_idx": np.zeros(1, np.int32),
                }
            )["logits"][0].copy()
        )
        done = total
    return np.concatenate(parts)


def paged_greedy(ir: Path, empty: Path, ids: list[int]) -> tuple[list[int], list[float]]:
    """Return greedy tokens and their log-probs from the paged pipeline."""
    scheduler = openvino_genai.SchedulerConfig()
    scheduler.num_kv_blocks, scheduler.max_num_batched_tokens = 8, 32
    pipeline = openvino_genai.ContinuousBatchingPipeline(
        ir, openvino_genai.Tokenizer(empty), scheduler, "CPU", **EXACT
    )
    config = openvino_genai.GenerationConfig(max_new_tokens=NEW_TOKENS, ignore_eos=True, logprobs=1)
    config.set_eos_token_id(2)
    handle = pipeline.add_request(0, ov.Tensor(np.array([ids], np.int64)), config)
    tokens: list[int] = []
    log_probs: list[float] = []
    while pipeline.has_non_finished_requests():
        pipeline.step()
        for output in handle.read().values() if handle.can_read() else ():
            tokens += output.generated_ids
            log_probs += output.generated_log_probs
    return tokens, log_probs


@pytest.mark.parametrize("name", MODELS)
def test_logits_and_greedy_tokens_equal_those_of_transformers(name: str, tmp_path: Path) -> None:
    model = MODELS[name]()
    checkpoints.save(model, tmp_path / "model")
    (ir := tmp_path / "ir").mkdir()
    (empty := tmp_path / "empty").mkdir()
    convert(tmp_path / "model", ir, WeightFormat.F32)
    ids = prompt()
    with torch.no_grad():
        expected = model(torch.tensor([ids])).logits[0].numpy()
        greedy = model.generate(
            torch.tensor([ids]), max_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=None
        )
    continuation = greedy[0, PROMPT_TOKENS:].tolist()
    with torch.no_grad():
        whole = torch.log_softmax(model(greedy).logits[0].double(), -1)
    reference = [whole[PROMPT_TOKENS - 1 + i, token].item() for i, token in enumerate(continuation)]

    assert len(set(continuation)) > 15, "the reference loops, so the test is void"
    np.testing.assert_allclose(plain_logits(ir, ids), expected, atol=3e-4)
    tokens, log_probs = paged_greedy(ir, empty, ids)
    assert tokens == continuation
    np.testing.assert_allclose(log_probs, reference, atol=3e-4)


def test_eight_bit_weights_are_accurate_and_byte_identical(tmp_path: Path) -> None:
    model = checkpoints.llama()
    checkpoints.save(model, tmp_path / "model")
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        convert(tmp_path / "model", tmp_path / name)
    for file in (IR_NAME, "openvino_model.bin"):
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()
    with torch.no_grad():
        expected = model(torch.tensor([prompt()])).logits[0].numpy()
    got = plain_logits(tmp_path / "first", prompt())
    error = np.abs(got - expected).mean() / np.abs(expected).mean()
    assert 0 < error < 0.05


def test_sharded_checkpoints_convert_to_the_same_bytes(tmp_path: Path) -> None:
    model = checkpoints.llama(tie_word_embeddings=False)
    checkpoints.save(model, tmp_path / "whole")
    checkpoints.save(model, tmp_path / "shards", max_shard_size="80KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    for name in ("whole", "shards"):
        (tmp_path / f"{name}-ir").mkdir()
        convert(tmp_path / name, tmp_path / f"{name}-ir")
    read = [
        (tmp_path / f"{name}-ir" / "openvino_model.bin").read_bytes()
        for name in ("whole", "shards")
    ]
    assert read[0] == read[1]
