"""Model server of a run: started or connected, supplied with weights, started again on failure."""

from __future__ import annotations

import secrets
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Self

from training.errors import ConfigError, DetailedError
from training.rl.networks import Sources
from training.rl.rollout_server.updates import (
    PredictorModels,
    VllmAdapters,
    VllmModels,
    WeightUpdates,
)
from training.rl.samplers import Weights
from training.serving.connection import EndpointError, RefusedError
from training.serving.endpoint import Endpoint
from training.serving.rollout_server import RolloutServer, ServerEngine
from training.serving.vllm import VllmOptions
from training.serving.vllm_command import default_python

SAMPLE_SECONDS = 1800.0  # longest wait for a response, as for rollout actors


class RolloutServerError(DetailedError, ValueError):
    """The server failed and could not be started again."""

    reason = "UNREACHABLE"


class PolicyServer:
    """Server with the newest weights of a policy, used by the first worker of a run.

    Args:
        window_tokens: longest prompt and longest response together.
    """

    def __init__(self, config: RolloutServer, sources: Sources, window_tokens: int) -> None:
        if sources.lora is not None:
            config.check_rank(sources.lora.rank)
        self._config, self._sources, self._window_tokens = config, sources, window_tokens
        self._updates = self._choose_updates()
        self._name, self._directory = "", Path()
        self._running = ExitStack()
        self._endpoint: Endpoint | None = None
        self.key = config.key or secrets.token_hex(16)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the server if it was started."""
        self._running.close()

    @property
    def endpoint(self) -> Endpoint:
        """Return the client of the server, with the name of the newest weights as its model."""
        assert self._endpoint is not None, "no weights were sent"
        return self._endpoint

    def send(self, weights: Weights, directory: Path, name: str) -> None:
        """Write the weights and let the server use them under `name`.

        Raises:
            RolloutServerError: the server refused them and could not be started again.
            ConfigError: the server has a smaller window than the run needs.
        """
        self._updates.write(weights, directory, name)
        self._name, self._directory = name, directory
        if self._endpoint is None:
            self._open()
            return
        try:
            self._updates.push(self._endpoint, directory, name)
        except (EndpointError, RefusedError) as error:
            self.restart(error)

    def restart(self, error: Exception) -> None:
        """Start the server again with the newest weights after a failure.

        Raises:
            RolloutServerError: the server is not this run's, or does not start.
        """
        cause = error
        if self._config.address is None:
            print(f"the model server for rollouts failed: {error}", file=sys.stderr, flush=True)
            self._running.close()
            try:
                return self._open()
            except (EndpointError, RefusedError) as failed:
                cause = failed
        raise RolloutServerError(
            f"rollout_server: {self._name} cannot be served: {cause}", field="rollout_server"
        ) from cause

    def _open(self) -> None:
        """Start the server with the newest weights, or connect to the running one.

        Raises:
            EndpointError, RefusedError: the server does not start, or refuses the weights.
            TokenizerMismatchError: the running server has another tokenizer.
            ConfigError: see `send`.
        """
        config = self._config
        url, model = config.address or "", ""
        if config.address is None:
            started = self._updates.start(self._directory, self._name, self.key)
            served = self._running.enter_context(started)
            url, model = served.base_url, served.model
        client = Endpoint(url, model, self.key, config.concurrency, SAMPLE_SECONDS)
        self._endpoint = self._running.enter_context(client)
        described = client.descriptions()
        if config.address is not None:
            client.model = next((n for n, e in described.items() if not e.get("parent")), "")
            client.check_tokenizer(self._sources.model_directory)
            self._updates.push(client, self._directory, self._name)
        window = max((int(e.get("max_model_len") or 0) for e in described.values()), default=0)
        if window < self._window_tokens:
            raise ConfigError(
                f"max_prompt_tokens + max_response_tokens: {self._window_tokens} is above "
                f"{window}, the window of the rollout server",
                field="max_prompt_tokens + max_response_tokens",
                reason="TOO_LARGE",
                limit=f"at most {window}",
            )

    def _choose_updates(self) -> WeightUpdates:
        config, sources = self._config, self._sources
        if config.engine is ServerEngine.PREDICTOR:
            return PredictorModels(sources, config, self._window_tokens)
        if sources.lora is not None:
            return VllmAdapters(sources, partial(self._vllm_options, sources.model_directory))
        return VllmModels(sources, config.dtype, self._vllm_options)

    def _vllm_options(self, model: Path) -> VllmOptions:
        config, lora = self._config, self._sources.lora
        return VllmOptions(
            python=config.python or default_python(),
            model=model.absolute(),
            name="policy",
            dtype=config.dtype.value,
            window_tokens=self._window_tokens,
            concurrency=config.concurrency,
            kv_gigabytes=config.kv_gigabytes,
            gpus=config.gpus,
            gpu_memory=config.gpu_memory,
            lora_rank=None if lora is None else lora.rank,
            arguments=config.arguments,
        )
