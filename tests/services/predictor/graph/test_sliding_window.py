"""The paged engine applies the sliding window.

The pass that converts the graph to paged attention silently drops a window of an unknown form.
"""

from pathlib import Path

import numpy as np
import openvino as ov
import torch
from openvino_genai import ContinuousBatchingPipeline, GenerationConfig, SchedulerConfig, Tokenizer

from services.predictor.graph.conversion import convert
from services.predictor.graph.weights import WeightFormat
from tests.services.predictor import checkpoints
from tests.services.predictor.prompts import EXACT, prompt


def paged_prompt_log_probs(directory: Path, ids: list[int]) -> np.ndarray:
    """Return the log-prob of each prompt token except the first, by paged attention."""
    (ir := directory / "ir").mkdir()
    (empty := directory / "empty").mkdir()
    convert(directory, ir, WeightFormat.F32)
    scheduler = SchedulerConfig()
    scheduler.num_kv_blocks, scheduler.max_num_batched_tokens = 8, 32
    pipeline = ContinuousBatchingPipeline(ir, Tokenizer(empty), scheduler, "CPU", **EXACT)
    config = GenerationConfig(max_new_tokens=1, ignore_eos=True, logprobs=1, echo=True)
    config.set_eos_token_id(2)
    handle = pipeline.add_request(0, ov.Tensor(np.array([ids], np.int64)), config)
    while pipeline.has_non_finished_requests():
        pipeline.step()
    (output,) = handle.read_all()
    return np.array(output.generated_log_probs[1 : len(ids)])


def test_log_probs_beyond_the_window_change_and_equal_the_reference(
    tmp_path: Path,
) -> None:
    ids = prompt()
    found = {}
    for window in (24, 4096):
        model = checkpoints.gemma3(sliding_window=window)
        with torch.no_grad():
            scores = torch.log_softmax(model(torch.tensor([ids])).logits[0].double(), -1)
        reference = [scores[i, token].item() for i, token in enumerate(ids[1:])]
        found[window] = paged_prompt_log_probs(checkpoints.save(model, tmp_path / str(window)), ids)
        np.testing.assert_allclose(found[window], reference, atol=3e-4)
    difference = np.abs(found[24] - found[4096])
    assert difference[:23].max() < 1e-3
    assert difference[24:].max() > 0.1, "the window had no effect, so it was dropped"
