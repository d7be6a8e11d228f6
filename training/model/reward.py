"""Reward model and critic: a backbone with a scalar head; how a reward model is kept on disk and
turned into a critic.

Shapes: B batch, T tokens. A directory holds head.safetensors and reward_model.json, and either
    adapter/ (on the weights of the
base that it names) or a whole decoder of its own.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from training.errors import DetailedError
from training.manifest import hash_file
from training.model.backbone import Backbone
from training.model.checkpoint import load_decoder, save_decoder
from training.model.fields import absent, missing
from training.model.head import ScalarHead, last_real_column
from training.model.lora import (
    LoraConfig,
    add_adapter,
    copy_adapter,
    load_adapter,
    read_adapter_config,
    save_adapter,
)
from training.model.tensor_files import read_tensors
from training.model.transformer import Decoder

TOKENIZER = "tokenizer.json"
SETTINGS = "reward_model.json"
HEAD = "head.safetensors"
ADAPTER = "adapter"


class RewardModelError(DetailedError, ValueError):
    """A reward model does not belong to the model that it shall judge; the text names both."""

    reason = "INVALID_REWARD_MODEL"


@dataclass(frozen=True)
class ScalarModel:
    """One number per position: the critic. The reward model reads it at the last real token only."""

    backbone: Backbone
    head: ScalarHead

    def everywhere(self, ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """Values of every state, [B, T]."""
        values_BT: Tensor = self.head(self.backbone.hidden(ids_BT, mask_BT))
        return values_BT

    def at_last(self, ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """The scalar at each row's right-most real token, [B]."""
        hidden_BTD = self.backbone.hidden(ids_BT, mask_BT)
        rows_B = torch.arange(ids_BT.shape[0], device=ids_BT.device)
        scalar_B: Tensor = self.head(hidden_BTD[rows_B, last_real_column(mask_BT)])
        return scalar_B

    def named_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """What training changes: the backbone's part and the head."""
        return [*self.backbone.named_parameters(), *self.head.named_parameters(prefix="head")]


@dataclass(frozen=True)
class RewardModel:
    """mean and std are of its raw scores on held-out responses: normalised scores are comparable
    between trainings.
    """

    scalar: ScalarModel
    mean: float = 0.0
    std: float = 1.0

    def score(self, ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """Normalised scores of conversations that end with a response, [B]."""
        return (self.scalar.at_last(ids_BT, mask_BT) - self.mean) / self.std


def save_reward_model(
    reward: RewardModel, lora: LoraConfig | None, model_directory: Path, directory: Path
) -> None:
    """Write everything but the manifest. `model_directory` is the base that it was trained from."""
    directory.mkdir(parents=True, exist_ok=True)
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
    save_file(
        {name: t.cpu().contiguous() for name, t in reward.scalar.head.state_dict().items()},
        directory / HEAD,
    )
    settings = {"base": model_directory.name, "mean": reward.mean, "std": reward.std}
    (directory / SETTINGS).write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")


def is_adapter(directory: Path) -> bool:
    """True where the reward model stands on the weights of its base."""
    return (directory / ADAPTER).is_dir()


def require_one_tokenizer(directory: Path, model_directory: Path) -> None:
    """Ids must mean the same to who writes and to who scores them: both have the same
    tokenizer.json, byte by byte.

    Raises:
        RewardModelError: they differ, or one is missing.
    """
    files = [place / TOKENIZER for place in (directory, model_directory)]
    for file in files:
        if not file.is_file():
            raise RewardModelError(missing(file), field=absent(file), reason="MISSING")
    if hash_file(files[0]) != hash_file(files[1]):
        raise RewardModelError(
            f"{directory.name} reads other tokens than {model_directory.name} writes, as their tokenizer.json differ: "
            f"a reward model must be trained from {model_directory.name} or a model with the same tokenizer",
            field=TOKENIZER,
            reason="MISMATCH",
        )


def load_reward_model(
    directory: Path, model_directory: Path, decoder: Decoder | None = None
) -> RewardModel:
    """Read a reward model, frozen; its decoder is on the processor, unless it is given.

    Args:
        model_directory: the base of an adapter; must be the one that it was trained from. Of a
            whole reward model whoever gives it ids.
        decoder: that base if it is loaded already, so that its weights are shared.

    Raises:
        RewardModelError: the adapter was trained on another base, or the whole reward model with
            another tokenizer.
    """
    settings = json.loads((directory / SETTINGS).read_text())
    if is_adapter(directory):
        if settings["base"] != model_directory.name:
            raise RewardModelError(
                f"reward model {directory.name} stands on {settings['base']}, not {model_directory.name}",
                field="base",
                reason="MISMATCH",
                limit=settings["base"],
            )
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
    """A critic that starts as the reward model, its head rescaled to predict **normalised** scores.
    Shares frozen weights only.

    Args:
        directory: where the reward model was loaded from (its adapter's shape is read there).
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
        head.score.weight /= reward.std
        head.score.bias.sub_(reward.mean).div_(reward.std)
    return ScalarModel(backbone, head)
