"""vLLM's protocol for rollouts over a decoder in this process, with the faults of real servers.

Keys and values of known beginnings are kept in blocks, as in vLLM, so that a reload without a reset
answers with those of the old weights.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from tests.support.model_server import FakeModelServer
from training.model.backbone import Backbone
from training.model.checkpoint import load_decoder
from training.model.lora import load_adapter
from training.model.transformer import KeyValueCache

BLOCK_TOKENS = 2


@dataclass
class PolicyModelServer(FakeModelServer):
    """State of the server.

    Attributes:
        base: model directory.
        ignores_weights: accepts new weights and keeps the old ones.
        keeps_cache: accepts the reset of kept keys and values and keeps them.
        truncates_log_probs: omits the log-prob of the last token.
        dies_after: number of samples; later requests get no response.
        ignores_stop_ids: continues after end tokens.
    """

    base: Path = Path()
    ignores_weights: bool = False
    keeps_cache: bool = False
    truncates_log_probs: bool = False
    ignores_stop_ids: bool = False
    dies_after: int | None = None
    sampled: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _caches: dict[tuple[str, tuple[int, ...]], KeyValueCache] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._models = {self.model: Backbone(load_decoder(self.base))}

    def respond(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Return status and body of a response."""
        with self._lock, torch.no_grad():
            self.requests.append((path, body))
            if self.fail_after is not None and len(self.requests) > self.fail_after:
                return 500, {"error": {"message": "internal error"}}
            if path == "/v1/models":
                models = [{"id": name, "parent": None} for name in self._models]
                models[0]["max_model_len"] = self.window
                for adapter in models[1:]:
                    adapter["parent"] = self.model
                return 200, {"data": models}
            if path == "/tokenize":
                return 200, {"tokens": [*body["prompt"].encode()]}
            if path == "/v1/completions":
                return self._answer(body)
            if path == "/v1/load_lora_adapter":
                decoder = load_decoder(self.base)
                if not self.ignores_weights:
                    load_adapter(decoder, "served", Path(body["lora_path"]))
                    self._models[body["lora_name"]] = Backbone(decoder, "served")
                else:
                    self._models[body["lora_name"]] = Backbone(decoder)
            elif path == "/v1/unload_lora_adapter":
                if body["lora_name"] not in self._models:
                    return 404, {"error": {"message": "no such adapter"}}
                del self._models[body["lora_name"]]
            elif path == "/collective_rpc" and not self.ignores_weights:
                directory = Path(body["kwargs"]["weights_path"])
                self._models[self.model] = Backbone(load_decoder(directory))
            elif path == "/reset_prefix_cache" and not self.keeps_cache:
                self._caches.clear()
            return 200, {}

    def _answer(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if body["model"] not in self._models:
            return 404, {"error": {"message": "no such model"}}
        if len(body["prompt"]) + body["max_tokens"] > self.window:
            return 400, {"error": {"message": "too long", "param": "input_tokens"}}
        self.sampled += 1
        if self.dies_after is not None and self.sampled > self.dies_after:
            raise ConnectionAbortedError  # the connection is closed without a response
        ids, log_probs, stop_ids = [*body["prompt"]], [], [*body["stop_token_ids"]]
        generator = torch.Generator().manual_seed(body["seed"])
        policy = self._models[body["model"]]
        cache = self._read(body["model"], ids, len(ids) + body["max_tokens"])
        for _ in range(body["max_tokens"]):
            new_1T = torch.tensor([ids[cache.length :]])
            hidden_1TD = policy.hidden(new_1T, torch.ones(1, len(ids)).long(), cache)
            log_probs_V = policy.decoder.logits(hidden_1TD[0, -1]).log_softmax(-1)
            if only := body.get("allowed_token_ids"):
                ids.append(only[0])
            elif body["temperature"] == 0:
                ids.append(int(log_probs_V.argmax()))
            else:
                ids.append(int(torch.multinomial(log_probs_V.exp(), 1, generator=generator)))
            log_probs.append(float(log_probs_V[ids[-1]]))
            if ids[-1] in stop_ids and not self.ignores_stop_ids:
                break
        if self.truncates_log_probs:
            log_probs.pop()
        choice = {
            "text": "",
            "token_ids": ids[len(body["prompt"]) :],
            "logprobs": {"token_logprobs": log_probs},
            "finish_reason": "stop" if ids[-1] in stop_ids else "length",
        }
        return 200, {"choices": [choice]}

    def _read(self, model: str, ids: Sequence[int], capacity: int) -> KeyValueCache:
        """Return keys and values of all whole blocks before the last token, and keep them."""
        policy, ids_1T = self._models[model], torch.tensor([[*ids]])
        blocks = (len(ids) - 1) // BLOCK_TOKENS * BLOCK_TOKENS
        cache = KeyValueCache(capacity)
        for length in range(blocks, 0, -BLOCK_TOKENS):
            if kept := self._caches.get((model, tuple(ids[:length]))):
                cache = copied(kept, capacity)
                break
        for end in range(cache.length + BLOCK_TOKENS, blocks + 1, BLOCK_TOKENS):
            policy.hidden(ids_1T[:, end - BLOCK_TOKENS : end], torch.ones(1, end).long(), cache)
            self._caches[model, tuple(ids[:end])] = copied(cache, end)
        return cache


def copied(cache: KeyValueCache, capacity: int) -> KeyValueCache:
    """Return a copy of a cache of one row with another capacity."""
    copy = KeyValueCache(capacity)
    for layer, (keys, values) in enumerate(zip(cache._keys, cache._values, strict=True)):
        copy.append(layer, keys[:, :, : cache.length], values[:, :, : cache.length])
    copy.length = cache.length
    return copy
