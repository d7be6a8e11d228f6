"""Reward model and critic: a backbone with a scalar head, and their files.

A directory holds head.safetensors and reward_model.json, and either adapter/ (for the base model
named there) or a complete decoder. Shapes: B batch, T tokens, D hidden.
"""

from __future__ import annotations

import copy
import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from durable_files.files import make_directory
from training.artifacts.manifest import hash_file
from training.errors import DetailedError
from training.model.backbone import Backbone
from training.model.checkpoint import load_decoder, save_decoder
from training.model.config import REWARD_SETTINGS, LoraConfig
from training.model.fields import absent, missing
from training.model.lora import (
    add_adapter,
    check_base,
    copy_adapter,
    load_adapter,
    read_adapter_config,
    record_base,
    save_adapter,
)
from training.model.tensor_files import read_tensors
from training.model.transformer import Decoder

TOKENIZER = "tokenizer.json"
HEAD = "head.safetensors"
ADAPTER = "adapter"


class RewardModelError(DetailedError, ValueError):
    """Error for a reward model that does not match the scored model; the message names both."""

    reason = "INVALID_REWARD_MODEL"


class ScalarHead(nn.Module):
    """Linear head on hidden states normalised to unit RMS: a score, or the value of a critic.

    The normalisation is needed because final norms have any scale (with Gemma 3's, the first loss
    was 237 instead of ln 2). Weights start at std 1/sqrt(D+1) (N+ details, arXiv 2403.17031), or at
    zero for a critic without a reward model to start from.
    """

    def __init__(self, hidden_size: int, seed: int | None = None) -> None:
        super().__init__()
        self.score = nn.Linear(hidden_size, 1)
        with torch.no_grad():
            self.score.weight.zero_()
            self.score.bias.zero_()
            if seed is not None:
                drawn = torch.empty(1, hidden_size, device="cpu")
                generator = torch.Generator().manual_seed(seed)
                self.score.weight.copy_(
                    drawn.normal_(0.0, 1 / math.sqrt(hidden_size + 1), generator=generator)
                )

    def forward(self, hidden: Tensor) -> Tensor:
        """Map [..., D] to [...], in fp32 even under autocast, since bf16 would tie close scores."""
        with torch.autocast(hidden.device.type, enabled=False):
            even = functional.rms_norm(hidden.float(), hidden.shape[-1:])
            scalar: Tensor = self.score(even).squeeze(-1)
        return scalar


def last_real_column(mask_BT: Tensor) -> Tensor:
    """Return the index of the right-most real token per row, [B].

    Reward models read their scores there.
    """
    columns = torch.arange(mask_BT.shape[1], device=mask_BT.device)
    return (mask_BT.long() * columns).amax(dim=1)


@dataclass(frozen=True)
class ScalarModel:
    """A model with one scalar per position, used as critic.

    The reward model reads the scalar at the last real token only.
    """

    backbone: Backbone
    head: ScalarHead

    def everywhere(self, ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """Return the values of all states, [B, T]."""
        values_BT: Tensor = self.head(self.backbone.hidden(ids_BT, mask_BT))
        return values_BT

    def at_last(self, ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """Return the scalar at the right-most real token of each row, [B]."""
        hidden_BTD = self.backbone.hidden(ids_BT, mask_BT)
        rows_B = torch.arange(ids_BT.shape[0], device=ids_BT.device)
        scalar_B: Tensor = self.head(hidden_BTD[rows_B, last_real_column(mask_BT)])
        return scalar_B

    def named_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Return the trainable parameters of backbone and head."""
        return [*self.backbone.named_parameters(), *self.head.named_parameters(prefix="head")]


@dataclass(frozen=True)
class RewardModel:
    """A scalar model with the mean and std of its raw scores on held-out responses.

    Normalised scores are comparable between trainings.
    """

    scalar: ScalarModel
    mean: float = 0.0
    std: float = 1.0

    def score(self, ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """Return normalised scores of conversations that end with a response, [B]."""
        return (self.scalar.at_last(ids_BT, mask_BT) - self.mean) / self.std


def save_reward_model(
    reward: RewardModel, lora: LoraConfig | None, model_directory: Path, directory: Path
) -> None:
    """Write all files except the manifest. `model_directory` is the base model of the training."""
    make_directory(directory)
    backbone = reward.scalar.backbone
    if lora is None or backbone.adapter is None:
        save_decoder(backbone.decoder, directory, companions_from=model_directory)
    else:
        save_adapter(
            backbone.decoder,
            backbone.adapter,
            lora,
            directory / ADAPTER,
            parent=model_directory.name,
        )
        record_base(directory / ADAPTER, model_directory)
    save_file(
        {name: t.cpu().contiguous() for name, t in reward.scalar.head.state_dict().items()},
        directory / HEAD,
    )
    settings = {"base": model_directory.name, "mean": reward.mean, "std": reward.std}
    (directory / REWARD_SETTINGS).write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")


def is_adapter(directory: Path) -> bool:
    """Return True if the reward model is an adapter on its base model."""
    return (directory / ADAPTER).is_dir()


def require_one_tokenizer(directory: Path, model_directory: Path) -> None:
    """Check that both directories have byte-identical tokenizer.json files, so that ids agree.

    Raises:
        RewardModelError: the files differ, or one is missing.
    """
    files = [place / TOKENIZER for place in (directory, model_directory)]
    for file in files:
        if not file.is_file():
            raise RewardModelError(missing(file), field=absent(file), reason="MISSING")
    if hash_file(files[0]) != hash_file(files[1]):
        raise RewardModelError(
            f"{directory.name} and {model_directory.name} have different tokenizer.json files:"
            f" train the reward model from {model_directory.name} or a model with the same"
            " tokenizer",
            field=TOKENIZER,
            reason="MISMATCH",
        )


def load_reward_model(
    directory: Path, model_directory: Path, decoder: Decoder | None = None
) -> RewardModel:
    """Load a frozen reward model, on the CPU unless its decoder is given.

    Args:
        model_directory: for an adapter, the base model of its training; for a complete reward
            model, the model that produces the ids.
        decoder: the base model if already loaded, to share its weights.

    Raises:
        RewardModelError: the adapter was trained on another base, or the complete reward model with
            another tokenizer.
    """
    settings = json.loads((directory / REWARD_SETTINGS).read_text())
    if is_adapter(directory):
        if settings["base"] != model_directory.name:
            raise RewardModelError(
                f"reward model {directory.name} was trained on {settings['base']},"
                f" not {model_directory.name}",
                field="base",
                reason="MISMATCH",
                limit=settings["base"],
            )
        check_base(directory / ADAPTER, model_directory)
        decoder = decoder or load_decoder(model_directory)
        load_adapter(decoder, "reward", directory / ADAPTER)
        backbone = Backbone(decoder, "reward")
    else:
        require_one_tokenizer(directory, model_directory)
        backbone = Backbone(load_decoder(directory))
    head = ScalarHead(backbone.decoder.config.hidden_size)
    head.load_state_dict(read_tensors(directory / HEAD, torch.float32))
    scalar = ScalarModel(backbone, head)
    for _, parameter in scalar.named_parameters():
        parameter.requires_grad_(False)
    return RewardModel(scalar, settings["mean"], settings["std"])


def critic_from(reward: RewardModel, directory: Path) -> ScalarModel:
    """Return a critic initialised from the reward model, predicting **normalised** scores.

    The head is rescaled. Only frozen weights are shared.

    Args:
        directory: directory of the reward model, for the adapter's shape.
    """
    source = reward.scalar
    if source.backbone.adapter is None:
        backbone = Backbone(copy.deepcopy(source.backbone.decoder).requires_grad_(True))
    else:
        add_adapter(
            source.backbone.decoder, "critic", read_adapter_config(directory / ADAPTER), seed=0
        )
        copy_adapter(source.backbone.decoder, source.backbone.adapter, "critic")
        backbone = Backbone(source.backbone.decoder, "critic")
    head = copy.deepcopy(source.head).requires_grad_(True)
    with torch.no_grad():
        # (w h + b - mean) / std = (w / std) h + (b - mean) / std.
        head.score.weight /= reward.std
        head.score.bias.sub_(reward.mean).div_(reward.std)
    return ScalarModel(backbone, head)
