"""Log-probs of texts from a model directory, computed in this process.

Shapes: T tokens of a row, V vocabulary, D hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from training.data.chat import open_tokenizer
from training.errors import ConfigError
from training.losses.log_probs import token_log_probs
from training.model.backbone import Backbone
from training.model.checkpoint import load_decoder
from training.runtime.machine import to_device, use_device

CHUNK_LOGITS = 1 << 25  # 128 MiB of float32 logits at once, for any vocabulary


class LocalModel:
    """A decoder with its tokenizer; float32, on one device.

    Attributes:
        window_tokens: longest row; one less than the positions, as model servers reserve one for an
            answer.
    """

    def __init__(self, directory: Path, device: str = "cpu") -> None:
        """Load the model.

        Raises:
            ConfigError: the device is not available.
            ModelConfigError, CheckpointError, ChatError: a file is missing or invalid.
        """
        self._tokenizer, self._settings = open_tokenizer(directory)
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._device = use_device(device)
        self._backbone = Backbone(to_device(load_decoder(directory)))
        self.window_tokens = self._backbone.decoder.config.max_positions - 1

    def start_id(self) -> int:
        """Return the token in front of a text.

        Raises:
            ConfigError: tokenizer_config.json names neither a start token nor an end token.
        """
        for name in ("bos_token", "eos_token"):
            token = self._settings.get(name)
            text = token.get("content") if isinstance(token, dict) else token
            if text and (found := self._tokenizer.token_to_id(text)) is not None:
                return int(found)
        raise ConfigError(
            "tokenizer_config.json: bos_token and eos_token are missing",
            field="bos_token",
            reason="MISSING",
        )

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text, without special tokens around it."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    @torch.no_grad()
    def log_probs(self, rows: Sequence[Sequence[int]]) -> list[Sequence[float]]:
        """Return the natural log-probs of row[1:] for each row."""
        decoder = self._backbone.decoder
        chunk = max(1, CHUNK_LOGITS // decoder.config.vocab_size)
        found: list[Sequence[float]] = []
        for row in rows:
            ids_T = torch.tensor(row, device=self._device)
            hidden_TD = self._backbone.hidden(ids_T[None, :-1])[0]
            # The head runs on chunks: all logits of a window would take gigabytes.
            parts = [
                token_log_probs(decoder.logits(states), targets)
                for states, targets in zip(
                    torch.split(hidden_TD, chunk), torch.split(ids_T[1:], chunk), strict=True
                )
            ]
            found.append(torch.cat(parts).double().tolist())
        return found
