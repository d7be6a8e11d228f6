"""Losses of our stages on the fixed batch.

Microbatches are smaller than the batch on purpose: TRL processes the whole batch at once.
"""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file
from torch import nn

from tests.oracle.batch import BETA, CENTRE, DOWN_WEIGHT, UP_WEIGHT, Batch
from training.data.chat import Chat, load_chat
from training.data.examples import read_pairs, read_sft, read_thumbs
from training.data.tensors import TokenisedExample, microbatches
from training.model.backbone import Backbone
from training.model.checkpoint import load_decoder
from training.model.reward import ScalarHead, ScalarModel
from training.rl.reference import PolicyAndReference
from training.runtime.context import Lineage
from training.runtime.ranks import ALONE
from training.stages import dpo, kto, reward_model, sft

Row, Tokenised = TypeVar("Row"), TypeVar("Tokenised")
Figures = dict[str, float]
# More than any row has, so that no context is shortened.
MOST_TOKENS = 4096


def losses(batch: Batch) -> Figures:
    """Return loss and gradient norm by name."""
    torch.set_num_threads(1)
    return {**of_sft(batch), **of_reward_model(batch), **of_dpo(batch), **of_kto(batch)}


def learned_texts(batch: Batch) -> list[str]:
    """Return the trained part of each SFT row, decoded with control tokens."""
    chat = load_chat(batch.model("policy"))
    names = {chat.end_id: "<|end|>"}
    return [
        "".join(names.get(i, chat.decode([i])) for i in chat.response_ids(row.response))
        for row in read_sft(batch.folder / "sft.jsonl")
    ]


def of_sft(batch: Batch) -> Figures:
    chat, policy = load_chat(batch.model("policy")), backbone(batch, "policy")
    examples = [
        TokenisedExample(
            tuple(chat.prompt_ids(row.messages)), tuple(chat.response_ids(row.response))
        )
        for row in read_sft(batch.folder / "sft.jsonl")
    ]
    tokens = sum(len(example.response) for example in examples)
    loss = sft.accumulate(policy, microbatches(examples, 2), tokens, no_autocast, ALONE)
    return figures("SFT", loss, policy.decoder.parameters())


def of_reward_model(batch: Batch) -> Figures:
    chat, scalar = load_chat(batch.model("reward")), scalar_model(batch, "reward")
    pairs = tokenised(reward_model.tokenise, read_pairs(batch.folder / "pairs.jsonl"), chat)
    config = reward_model.RewardModelConfig(
        **places(batch), centre_coefficient=CENTRE, batch_pairs=len(pairs), microbatch_pairs=2
    )
    loss = reward_model.accumulate(scalar, pairs, config, no_autocast, ALONE)["loss"]
    return figures("reward model", loss, (parameter for _, parameter in scalar.named_parameters()))


def of_dpo(batch: Batch) -> Figures:
    chat, models = load_chat(batch.model("policy")), policy_and_reference(batch)
    pairs = tokenised(dpo.tokenise, read_pairs(batch.folder / "pairs.jsonl"), chat)
    config = dpo.DpoConfig(**places(batch), beta=BETA, batch_pairs=len(pairs), microbatch_pairs=2)
    loss = dpo.accumulate(models, pairs, config, no_autocast, ALONE)["loss"]
    return figures("DPO", loss, models.policy.decoder.parameters())


def of_kto(batch: Batch) -> Figures:
    chat, models = load_chat(batch.model("policy")), policy_and_reference(batch)
    thumbs = tokenised(kto.tokenise, read_thumbs(batch.folder / "thumbs.jsonl"), chat)
    config = kto.KtoConfig(**places(batch), beta=BETA, batch_rows=len(thumbs), microbatch_rows=2)
    z0 = kto.baseline(models, thumbs, config, no_autocast, ALONE)
    loss = kto.accumulate(models, thumbs, z0, (UP_WEIGHT, DOWN_WEIGHT), config, no_autocast, ALONE)[
        "loss"
    ]
    return {"KTO z0": z0, **figures("KTO", loss, models.policy.decoder.parameters())}


def tokenised(
    tokenise: Callable[[Row, Chat, int], tuple[Tokenised, int] | None],
    rows: Iterable[Row],
    chat: Chat,
) -> list[Tokenised]:
    """Return the rows as token ids, each of which must fit as a whole."""
    found = [tokenise(row, chat, MOST_TOKENS) for row in rows]
    assert all(each is not None and each[1] == 0 for each in found)
    return [each[0] for each in found if each is not None]


def figures(name: str, loss: float, parameters: Iterable[nn.Parameter]) -> Figures:
    return {f"{name} loss": loss, f"{name} gradient norm": norm_of(parameters)}


def norm_of(parameters: Iterable[nn.Parameter]) -> float:
    """Return the norm of the gradient of all parameters."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return float(torch.stack([gradient.double().norm() for gradient in gradients]).norm())


def policy_and_reference(batch: Batch) -> PolicyAndReference:
    return PolicyAndReference(backbone(batch, "policy"), backbone(batch, "reference"))


def backbone(batch: Batch, name: str) -> Backbone:
    return Backbone(load_decoder(batch.model(name)))


def scalar_model(batch: Batch, name: str) -> ScalarModel:
    decoder = load_decoder(batch.model(name))
    head = ScalarHead(decoder.config.hidden_size)
    head.load_state_dict(load_file(batch.model(name) / "head.safetensors"))
    return ScalarModel(Backbone(decoder), head)


def places(batch: Batch) -> dict[str, Any]:
    """Return the paths of a config and its lineage; no file is read or written."""
    return {
        "model_directory": batch.model("policy"),
        "data_path": batch.folder,
        "output_directory": batch.folder / "output",
        "lineage": Lineage("oracle"),
    }


def no_autocast() -> torch.autocast:
    return torch.autocast("cpu", enabled=False)
