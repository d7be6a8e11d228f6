"""The fixed batch and the models for both sides: plain files in one folder.

The side of TRL therefore needs none of our code. Fresh weights would make every loss ln 2 and every
gradient nearly zero, so noise is added until models differ.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.training.toys import toy_model, user, write_lines
from training.model.checkpoint import load_decoder, save_decoder
from training.model.reward import ScalarHead

BETA, CENTRE, UP_WEIGHT, DOWN_WEIGHT = 0.1, 0.01, 4.0, 1.0
TEMPERATURE, KL_COEFFICIENT, CLIP = 0.7, 0.05, 0.2
GROUP, CLIP_HIGH, K3_COEFFICIENT = 4, 0.28, 0.02
RESPONSE_TOKENS, END, FIRST_WORD, VOCABULARY = 6, 2, 6, 290
QUESTIONS = (
    "tree house",
    "river",
    "good stone bird",
    "cloud bad",
    "house",
    "bird tree river stone",
)
ANSWERS = ("good bird", "tree", "stone good river", "house cloud", "bird", "good")
WORSE = ("bad", "cloud bad tree", "bird", "river bad", "stone bad house", "bad tree")


@dataclass(frozen=True)
class Batch:
    """Folder of the batch with its files."""

    folder: Path

    def model(self, name: str) -> Path:
        """Return the path of a model.

        Names: reference; policy, which differs from it; reward and critic, with heads; policy_later
        and critic_later: one step later.
        """
        return self.folder / name


def write_batch(folder: Path) -> Batch:
    """Write models, rows and settings."""
    batch = Batch(folder)
    toy_model(batch.model("reference"), seed=1)
    add_noise(batch.model("reference"), batch.model("reference"), 1.0, seed=2)
    add_noise(
        batch.model("reference"), batch.model("policy"), 0.2, seed=10
    )  # with this seed z0 of KTO is above 0
    add_noise(batch.model("policy"), batch.model("policy_later"), 0.05, seed=4)
    for place, name in enumerate(("reward", "critic")):
        add_noise(batch.model("reference"), batch.model(name), 0.2, seed=20 + place)
        head = ScalarHead(load_decoder(batch.model(name)).config.hidden_size, seed=30 + place)
        save_file(head.state_dict(), batch.model(name) / "head.safetensors")
    add_noise(batch.model("critic"), batch.model("critic_later"), 0.1, seed=5)
    rows = zip(QUESTIONS, ANSWERS, WORSE, strict=True)
    pairs = [
        {"messages": user(q), "chosen": a, "rejected": w, "prompt_id": q, "margin": len(a) / 10}
        for q, a, w in rows
    ]
    write_lines(folder / "pairs.jsonl", pairs)
    thumbs = [
        {
            "messages": pair["messages"],
            "response": pair[side],
            "prompt_id": pair["prompt_id"],
            "thumb": thumb,
        }
        for place, pair in enumerate(pairs)
        for side, thumb in ((("chosen", "up"),) if place % 3 == 0 else (("rejected", "down"),))
    ]
    write_lines(folder / "thumbs.jsonl", thumbs)
    write_lines(
        folder / "sft.jsonl",
        [{"messages": pair["messages"], "response": pair["chosen"]} for pair in pairs],
    )
    (folder / "rollout.json").write_text(json.dumps(rollout_rows(16)))
    (folder / "groups.json").write_text(json.dumps(group_rows(4)))
    settings = {
        "group": GROUP,
        "clip_high": CLIP_HIGH,
        "k3_coefficient": K3_COEFFICIENT,
        "beta": BETA,
        "centre": CENTRE,
        "up_weight": UP_WEIGHT,
        "down_weight": DOWN_WEIGHT,
        "temperature": TEMPERATURE,
        "kl_coefficient": KL_COEFFICIENT,
        "clip": CLIP,
        "response_tokens": RESPONSE_TOKENS,
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    return batch


def rollout_rows(count: int) -> list[dict[str, list[int]]]:
    """Return prompts of several lengths with responses that fill all columns.

    Every second response ends with the stop token in the last column. TRL puts a score one column
    behind the last token if possible, and its critic also has a value for that column.
    """
    generator = torch.Generator().manual_seed(6)
    rows = torch.randint(
        FIRST_WORD, VOCABULARY, (count, 8 + RESPONSE_TOKENS), generator=generator
    ).tolist()
    return [
        {
            "prompt": row[: 3 + place % 5],
            "response": [*row[8:-1], END] if place % 2 == 0 else row[8:],
        }
        for place, row in enumerate(rows)
    ]


def group_rows(prompts: int) -> list[dict[str, object]]:
    """Return responses of all lengths to each prompt, grouped, with rewards.

    One group has equal rewards.
    """
    generator = torch.Generator().manual_seed(7)
    rows = []
    for prompt in range(prompts):
        asked = torch.randint(FIRST_WORD, VOCABULARY, (3 + prompt,), generator=generator).tolist()
        for place in range(GROUP):
            words = 1 + (prompt + 2 * place) % (RESPONSE_TOKENS - 1)
            response = [
                *torch.randint(FIRST_WORD, VOCABULARY, (words,), generator=generator).tolist(),
                END,
            ]
            rows.append(
                {
                    "prompt": asked,
                    "response": response,
                    "reward": 1.0 if prompt == 0 else float(place % 3),
                }
            )
    return rows


def add_noise(source: Path, target: Path, amount: float, seed: int) -> None:
    """Save the model with noise on all its matrices.

    The standard deviation is relative to 1/sqrt(inputs).
    """
    decoder = load_decoder(source)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in decoder.parameters():
            if parameter.ndim >= 2:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(noise, alpha=amount / parameter.shape[1] ** 0.5)
    save_decoder(decoder, target, companions_from=None if source == target else source)
