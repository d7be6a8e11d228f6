"""Rows of judgements for the stages."""

import random
from typing import Any

from tests.training.toys import WORDS, user


def pair_rows(count: int, noise: float, repeats: int = 1, seed: int = 1) -> list[dict[str, Any]]:
    """Return rows that prefer more "good"; a share `noise` of the labels is flipped."""
    dice = random.Random(seed)
    rows = []
    for item in range(count):
        better = " ".join(dice.choices(WORDS[2:], k=2)) + " good"
        worse = " ".join(dice.choices(WORDS[2:], k=2)) + " bad"
        prompt = f"{dice.choice(WORDS)} {item}"
        for _ in range(repeats):
            pair = (worse, better) if dice.random() < noise else (better, worse)
            rows.append(
                {
                    "messages": user(prompt),
                    "chosen": pair[0],
                    "rejected": pair[1],
                    "prompt_id": f"p{item}",
                    "margin": 0.0,
                }
            )
    return rows


def thumb_rows(ups: int, downs: int) -> list[dict[str, Any]]:
    """Return rows in which liked responses contain "good", others "bad"; each prompt occurs once
    per side.
    """
    rows = pair_rows(max(ups, downs), noise=0.0)
    return [
        {
            "messages": row["messages"],
            "response": row[side],
            "thumb": thumb,
            "prompt_id": row["prompt_id"],
        }
        for side, thumb, count in (("chosen", "up", ups), ("rejected", "down", downs))
        for row in rows[:count]
    ]
