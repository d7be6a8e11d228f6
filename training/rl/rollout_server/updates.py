"""New weights for a model server: one way for each kind of server and of weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import torch

from training.errors import ConfigError
from training.model.config import read_config
from training.rl.networks import Sources
from training.rl.rollout_server.weight_files import write_adapter, write_model
from training.rl.samplers import Weights
from training.serving.endpoint import Endpoint
from training.serving.predictor import EXACT, serving
from training.serving.rollout_server import RolloutServer, ServedType
from training.serving.vllm import VllmOptions, serving_vllm

KV_BLOCK_TOKENS = 32  # of the predictor


class WeightUpdates(Protocol):
    """Weights on their way to a server.

    `name` is the name of one version among all runs and versions.
    """

    def write(self, weights: Weights, directory: Path, name: str) -> None:
        """Write the files that the server loads."""

    def start(self, directory: Path, name: str, key: str) -> AbstractContextManager[Endpoint]:
        """Start a server with these weights."""

    def push(self, endpoint: Endpoint, directory: Path, name: str) -> None:
        """Replace the weights of a running server, and set `endpoint.model`.

        Raises:
            EndpointError, RefusedError: the server must not be used any longer.
        """


class PredictorModels:
    """Versions of the predictor's model repository; adapters are merged."""

    def __init__(self, sources: Sources, config: RolloutServer, window_tokens: int) -> None:
        self._sources, self._config = sources, config
        self._window_blocks = -(-window_tokens // KV_BLOCK_TOKENS)

    def write(self, weights: Weights, directory: Path, name: str) -> None:
        """Write the whole model with a manifest."""
        write_model(weights, self._sources, self._config.dtype, directory, name)

    def start(self, directory: Path, name: str, key: str) -> AbstractContextManager[Endpoint]:
        """Start with this version alone.

        Raises:
            ConfigError: the memory for keys and values is too small for one response.
        """
        config, model = self._config, read_config(directory)
        block_bytes = (
            2 * 4 * KV_BLOCK_TOKENS * model.num_layers * model.num_kv_heads * model.head_dim
        )
        most, window = int(config.kv_gigabytes * 1e9) // block_bytes, self._window_blocks
        if most < window:
            needed = window * block_bytes / 1e9
            raise ConfigError(
                f"rollout_server.kv_gigabytes: {config.kv_gigabytes:g} is less than one prompt "
                f"with its response needs, {needed:.3g}",
                field="rollout_server.kv_gigabytes",
                reason="TOO_SMALL",
                limit=f"at least {needed:.3g}",
            )
        settings = {
            "MAX_VERSIONS": "2",
            "CACHED_GRAPHS": "2",
            "MAX_CONCURRENT": str(config.concurrency),
            "KV_BLOCKS": str(min(most, window * config.concurrency)),
        }
        exact = EXACT if config.dtype is ServedType.FLOAT32 else {}
        return serving(directory, {**settings, **exact}, key)

    def push(self, endpoint: Endpoint, directory: Path, name: str) -> None:
        """Load the new version, then unload the old one."""
        parameters = {"directory": str(directory)}
        endpoint.command(f"/v2/repository/models/{name}/load", {"parameters": parameters})
        old, endpoint.model = endpoint.model, name
        if old:
            endpoint.command(f"/v2/repository/models/{old}/unload")


class VllmAdapters:
    """Adapters of vLLM on the model to train, each under a name of its own."""

    def __init__(self, sources: Sources, options: Callable[[], VllmOptions]) -> None:
        self._sources, self._options = sources, options
        self._loaded = ""

    def write(self, weights: Weights, directory: Path, name: str) -> None:
        """Write the adapter, checked against the model."""
        write_adapter(weights, self._sources, directory)

    @contextmanager
    def start(self, directory: Path, name: str, key: str) -> Iterator[Endpoint]:
        """Start with the model to train and this adapter."""
        self._loaded = name
        options = replace(self._options(), adapters={name: directory.absolute()})
        with serving_vllm(options, key) as endpoint:
            endpoint.model = name
            yield endpoint

    def push(self, endpoint: Endpoint, directory: Path, name: str) -> None:
        """Load the adapter under its name, then unload the one before.

        Keys and values of prompts are kept by the name of an adapter, so none of an old adapter
        are used. `load_inplace`: the name may exist after an interrupted push.
        """
        body = {"lora_name": name, "lora_path": str(directory), "load_inplace": True}
        endpoint.command("/v1/load_lora_adapter", body)
        if self._loaded:
            endpoint.command("/v1/unload_lora_adapter", {"lora_name": self._loaded})
        self._loaded = endpoint.model = name


class VllmModels:
    """All weights of vLLM, replaced in place between two answers.

    On CPUs vLLM computes with a packed copy of the head. A reload packs it again only if the head
    is a tensor of its own, and goes on with the old one otherwise.
    """

    def __init__(
        self, sources: Sources, kind: ServedType, options: Callable[[Path], VllmOptions]
    ) -> None:
        self._sources, self._kind, self._options = sources, kind, options

    def write(self, weights: Weights, directory: Path, name: str) -> None:
        """Write the whole model in the type of the server."""
        on_cpu = torch.get_default_device().type == "cpu"
        write_model(weights, self._sources, self._kind, directory, name, unties_head=on_cpu)

    def start(self, directory: Path, name: str, key: str) -> AbstractContextManager[Endpoint]:
        """Start with this version as the model."""
        return serving_vllm(self._options(directory), key)

    def push(self, endpoint: Endpoint, directory: Path, name: str) -> None:
        """Reload the weights.

        Without the reset, keys and values of the old weights would be used for known beginnings of
        prompts. After a failed reload the server has no weights.
        """
        endpoint.command("/pause?mode=wait")
        kwargs = {"weights_path": str(directory)}
        endpoint.command("/collective_rpc", {"method": "reload_weights", "kwargs": kwargs})
        endpoint.command("/reset_prefix_cache")
        endpoint.command("/resume")
        endpoint.command("/update_weight_version", {"new_version": name})
