"""Copies of the policy in a model server (vLLM or the predictor).

The first worker sends the weights of each version to the server and compares its log-probs with the
trainer's. Every worker samples its own rows.

Shapes: B rows, P prompt columns, R response columns, N compared tokens.
"""

from __future__ import annotations

import json
import secrets
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from training.data.seeds import seed_of
from training.data.tensors import pad
from training.model.config import read_config
from training.rl.correction import StaleRolloutError
from training.rl.rollout import Rollout, SampleRequest
from training.rl.rollout_server.server import SAMPLE_SECONDS, PolicyServer
from training.rl.rollout_server.weight_sync import FixedTokens, WeightSync
from training.rl.samplers import SamplingPlan, Weights
from training.runtime.ranks import Ranks
from training.serving.connection import EndpointError, ResponseError
from training.serving.endpoint import Endpoint, SampledTokens
from training.serving.rollout_server import RolloutServer, ServerEngine

# Bytes with which the first worker tells the others the address, as numbers of a sum.
ADDRESS_BYTES = 1024


class ServerSamplers:
    """Source of policy copies in a model server, which runs until the end of the block."""

    def __init__(self, config: RolloutServer) -> None:
        self._config, self._stack = config, ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the server, if it was started, and remove the written weights."""
        self._stack.close()

    def open(self, plan: SamplingPlan, ranks: Ranks) -> ServerCopies:
        """Implement `Samplers.open`; the server starts with the first weights."""
        folder = self._config.exports_directory
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        exports = tempfile.TemporaryDirectory(prefix="thumbwheel-rollouts-", dir=folder)
        exports_directory = Path(self._stack.enter_context(exports)).absolute()
        server = PolicyServer(self._config, plan.sources, plan.window_tokens)
        self._stack.enter_context(server)
        return ServerCopies(self._config, plan, ranks, server, exports_directory)


class ServerCopies:
    """Implements `PolicyCopies` for one worker.

    Args:
        server: used by the first worker only.
        exports_directory: folder for written weights.
    """

    def __init__(
        self,
        config: RolloutServer,
        plan: SamplingPlan,
        ranks: Ranks,
        server: PolicyServer,
        exports_directory: Path,
    ) -> None:
        self._config, self._plan, self._ranks = config, plan, ranks
        self._server, self._exports_directory = server, exports_directory
        self._vocabulary = read_config(plan.sources.model_directory).vocab_size
        self._fixed, self._sync = FixedTokens.of(plan.fixed_prompts), WeightSync(config.dtype)
        self._run, self._version = f"rollout-{secrets.token_hex(4)}", ""
        self._elsewhere: Endpoint | None = None  # client of workers other than the first

    def take(self, version: str, weights: Weights) -> None:
        """Send the weights to the server and verify that it uses them.

        Raises:
            DeadSyncError: the server's log-probs did not follow the trainer's.
            RolloutServerError: the server refused the weights and could not be started again.
            ConfigError: the server has a smaller window than the run's prompts and responses.
        """
        assert self._plan.policy is not None
        trainer_N = self._fixed.trainer_log_probs(self._plan.policy, self._ranks)
        if self._ranks.rank == 0:
            name = f"{self._run}-{version}"
            self._server.send(weights, self._exports_directory / name, name)
            for old in self._exports_directory.iterdir():
                if old.name != name:
                    shutil.rmtree(old)
            self._sync.check(version, trainer_N, self._served_log_probs())
        self._version = version
        self._share_address()

    def begin(self, request: SampleRequest, version: str) -> Callable[[], Rollout]:
        """Return a function that samples with `version`, which must be the newest."""
        if version != self._version:
            raise StaleRolloutError(
                f"rollout of {version}: the server has {self._version}",
                field="version",
                reason="MISMATCH",
            )
        return partial(self._sample, request)

    def _share_address(self) -> None:
        """Send address, key and name of the version from the first worker to the others."""
        if self._ranks.world_size == 1:
            return
        values = torch.zeros(ADDRESS_BYTES)
        if self._ranks.rank == 0:
            endpoint = self._server.endpoint
            told = json.dumps([endpoint.base_url, endpoint.model, self._server.key]).encode()
            values[: len(told)] = torch.tensor(list(told), dtype=values.dtype)
        told = bytes(self._ranks.sum(values).byte().tolist()).rstrip(b"\0")
        if self._ranks.rank > 0:
            url, model, key = json.loads(told)
            self._elsewhere = Endpoint(url, model, key, self._config.concurrency, SAMPLE_SECONDS)

    @property
    def _endpoint(self) -> Endpoint:
        return self._server.endpoint if self._elsewhere is None else self._elsewhere

    def _served_log_probs(self) -> Tensor:
        """Return the server's log-probs of the fixed tokens, [N].

        vLLM computes them as for a rollout, so with kept keys and values of known beginnings; its
        log-probs of prompts would not use any.
        """
        fixed = self._fixed
        if self._config.engine is ServerEngine.VLLM:
            tokens = fixed.tokens
            asked = partial(self._endpoint.sample, seeds=[0] * len(tokens), only=tokens)
            found = asked(fixed.contexts, max_tokens=1, stop_ids=(), temperature=1.0)
            if [one.token_ids for one in found] != [(token,) for token in tokens]:
                raise ResponseError(
                    "rollout_server: allowed_token_ids has no effect", field="allowed_token_ids"
                )
            values = [one.log_probs[0] for one in found]
        else:
            scored = self._endpoint.log_probs(fixed.prompts)
            values = [
                one.log_probs[position - 1]
                for one, positions in zip(scored, fixed.positions, strict=True)
                for position in positions
            ]
        return torch.tensor(values, device="cpu")

    def _sample(self, request: SampleRequest) -> Rollout:
        try:
            sampled = self._ask(request)
        except ResponseError:
            raise
        except EndpointError as error:
            # Other workers would keep the address of the server that has ended.
            if self._ranks.world_size > 1:
                raise
            self._server.restart(error)
            sampled = self._ask(request)
        return self._rollout(request, sampled)

    def _ask(self, request: SampleRequest) -> list[SampledTokens]:
        rows = [
            (ids, seed_of(seed, "copy", copy))
            for ids, seed in zip(request.token_ids, request.seeds, strict=True)
            for copy in range(request.n)
        ]
        return self._endpoint.sample(
            [ids for ids, _ in rows],
            request.max_new,
            self._plan.stop_ids,
            request.temperature,
            [seed for _, seed in rows],
        )

    def _rollout(self, request: SampleRequest, sampled: Sequence[SampledTokens]) -> Rollout:
        """Return the responses as tensors, padded like those of the own sampler.

        Raises:
            ResponseError: see `check_response`.
        """
        for one in sampled:
            check_response(one, request.max_new, self._plan.stop_ids, self._vocabulary)
        prompt_ids_BP, prompt_mask_BP = pad(
            [ids for ids in request.token_ids for _ in range(request.n)], side="left"
        )
        response_ids_BR, response_mask_BR = pad([one.token_ids for one in sampled])
        log_probs_BR = torch.zeros(response_ids_BR.shape)
        log_probs_BR[response_mask_BR.bool()] = torch.tensor(
            [value for one in sampled for value in one.log_probs]
        )
        ended = [one.token_ids[-1] in self._plan.stop_ids for one in sampled]
        return Rollout(
            prompt_ids_BP=prompt_ids_BP,
            prompt_mask_BP=prompt_mask_BP,
            response_ids_BR=response_ids_BR,
            response_mask_BR=response_mask_BR,
            log_probs_BR=log_probs_BR,
            ended_B=torch.tensor(ended),
            version=self._version,
            copies=request.n,
        )


def check_response(
    sampled: SampledTokens, max_new: int, stop_ids: Sequence[int], vocabulary: int
) -> None:
    """Check that a response is one that the policy could have sampled here.

    Raises:
        ResponseError: a token is outside the vocabulary; the response ended at a token that does
            not end responses here, continued after one that does, or is shorter than its limit
            without an end.
    """
    ids, problem = sampled.token_ids, ""
    ended = ids[-1] in stop_ids
    if not all(0 <= token < vocabulary for token in ids):
        problem = (
            f"a token is outside of the vocabulary of {vocabulary}: another tokenizer or model"
        )
    elif any(token in stop_ids for token in ids[:-1]):
        problem = "it continues after an end token: stop_token_ids has no effect"
    elif len(ids) > max_new:
        problem = f"it has {len(ids)} tokens, the limit is {max_new}"
    elif not ended and sampled.finish == "stop":
        problem = f"it ends with token {ids[-1]}, which ends no response of this model"
    elif not ended and len(ids) < max_new:
        problem = f"it was cut off at {len(ids)} of {max_new} tokens: the window is too small"
    if problem:
        raise ResponseError(f"rollout_server: a response is unusable: {problem}", field="response")
