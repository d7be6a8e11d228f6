"""Our PPO and GRPO on fixed rollouts, scored by the networks and trained one step later.

The algorithms are unchanged. Only their optimizer steps are replaced, by a recorder of the gradient
norm.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from tests.oracle.batch import (
    CLIP,
    CLIP_HIGH,
    GROUP,
    K3_COEFFICIENT,
    KL_COEFFICIENT,
    RESPONSE_TOKENS,
    TEMPERATURE,
    Batch,
)
from tests.oracle.ours import Figures, backbone, no_autocast, norm_of, scalar_model
from training.data.tensors import pad
from training.losses.policy import Normalisation
from training.model.checkpoint import load_decoder
from training.rl.networks import Networks
from training.rl.rollout import Rollout
from training.runtime.context import Lineage
from training.runtime.ranks import ALONE
from training.stages.grpo import Grpo, GrpoConfig
from training.stages.policy_inputs import PolicyInputs, Prompts
from training.stages.ppo import Ppo, PpoConfig, PpoNetworks

VARIANTS: dict[str, Mapping[str, object]] = {
    "GRPO": {"normalisation": Normalisation.SEQUENCE},
    "DAPO": {"normalisation": Normalisation.TOKEN},
    "Dr. GRPO": {
        "normalisation": Normalisation.CONSTANT,
        "constant_tokens": RESPONSE_TOKENS,
        "standardise": False,
    },
}


def losses(batch: Batch) -> Figures:
    """Return losses and gradients of one minibatch with the whole rollout."""
    torch.set_num_threads(1)
    figures = of_ppo(batch)
    for name, changes in VARIANTS.items():
        figures |= of_grpo(batch, name, changes)
    return figures


def of_ppo(batch: Batch) -> Figures:
    networks = PpoNetworks(
        backbone(batch, "policy"), backbone(batch, "reference"), scalar_model(batch, "critic")
    )
    rows, reward = read(batch, "rollout"), scalar_model(batch, "reward")
    config = PpoConfig(
        **common(batch, len(rows)), prompts_per_update=len(rows), clip=CLIP, value_clip=CLIP
    )
    algorithm = Ppo(
        networks, config, setting(lambda rollout: reward.at_last(rollout.ids_BT, rollout.mask_BT))
    )
    norms = note_gradients(algorithm, "policy", "critic")
    experience, _ = algorithm.make_experience(fixed_rollout(rows), KL_COEFFICIENT)
    experience = replace(experience, fresh_BR=None)  # the trained policy is a later one
    networks.policy.decoder.load_state_dict(load_decoder(batch.model("policy_later")).state_dict())
    networks.critic.backbone.decoder.load_state_dict(
        load_decoder(batch.model("critic_later")).state_dict()
    )
    figures = algorithm.learn(experience, 0)
    return {
        "PPO policy loss": figures["policy_loss"],
        "PPO policy gradient norm": norms["policy"],
        "PPO value loss": figures["value_loss"],
        "PPO value gradient norm": norms["critic"],
        "PPO clip fraction": figures["clip_fraction"],
    }


def of_grpo(batch: Batch, name: str, changes: Mapping[str, object]) -> Figures:
    networks = Networks(backbone(batch, "policy"), backbone(batch, "reference"))
    rows = read(batch, "groups")
    config = GrpoConfig(
        **common(batch, len(rows)),
        prompts_per_update=len(rows) // GROUP,
        samples_per_prompt=GROUP,
        clip_low=CLIP,
        clip_high=CLIP_HIGH,
        kl_coefficient=K3_COEFFICIENT,
        **changes,
    )
    algorithm = Grpo(networks, config, setting(lambda rollout: scores_of(rollout, rows)))
    norms = note_gradients(algorithm, "policy")
    experience, _ = algorithm.make_experience(fixed_rollout(rows))
    experience = replace(experience, fresh_BR=None)
    networks.policy.decoder.load_state_dict(load_decoder(batch.model("policy_later")).state_dict())
    figures = algorithm.learn(experience, 0)
    loss = figures["policy_loss"] + figures["reference_loss"]
    return {f"{name} loss": loss, f"{name} gradient norm": norms["policy"]}


def scores_of(rollout: Rollout, rows: Sequence[Mapping[str, object]]) -> torch.Tensor:
    """Return the rewards of the file for these responses."""
    rewards = {tuple(row["response"]): row["reward"] for row in rows}
    lengths = rollout.response_mask_BR.sum(1).tolist()
    responses = zip(rollout.response_ids_BR.tolist(), lengths, strict=True)
    return torch.tensor([rewards[tuple(ids[:length])] for ids, length in responses])


def note_gradients(algorithm: Ppo | Grpo, *networks: str) -> dict[str, float]:
    """Return the dictionary of the norms, filled during training."""
    norms: dict[str, float] = {}
    for network in networks:
        learner = getattr(algorithm, f"_{network}")

        def note(
            update: int,
            at: str,
            network: str = network,
            parameters: list[nn.Parameter] = learner.parameters,
        ) -> None:
            norms[network] = norm_of(parameters)

        learner.step = note
    return norms


def common(batch: Batch, rows: int) -> dict[str, object]:
    """Return the settings of all runs; no path is read or written."""
    return {
        "model_directory": batch.model("policy"),
        "reward_model_directory": None,
        "data_path": Path("none"),
        "output_directory": Path("none"),
        "lineage": Lineage("oracle"),
        "updates": 1,
        "minibatch_rows": rows,
        "epochs_per_update": 1,
        "max_response_tokens": RESPONSE_TOKENS,
        "temperature": TEMPERATURE,
    }


def setting(score: object) -> PolicyInputs:
    return PolicyInputs(Prompts([], [], (), 0), score, no_autocast, ALONE)


def fixed_rollout(rows: Sequence[Mapping[str, object]]) -> Rollout:
    """Return the rows as a rollout."""
    prompt_ids_BP, prompt_mask_BP = pad([row["prompt"] for row in rows], side="left")
    response_ids_BR, response_mask_BR = pad([row["response"] for row in rows])
    ended_B = torch.tensor([row["response"][-1] == 2 for row in rows])
    log_probs_BR = torch.zeros(response_ids_BR.shape)
    return Rollout(
        prompt_ids_BP,
        prompt_mask_BP,
        response_ids_BR,
        response_mask_BR,
        log_probs_BR,
        ended_B,
        "fixed",
    )


def read(batch: Batch, name: str) -> list[dict[str, object]]:
    return json.loads((batch.folder / f"{name}.json").read_text())
