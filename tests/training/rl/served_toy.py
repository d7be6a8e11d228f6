"""Toy model that serves answers, sampled token by token, with the log-probs of the raw model."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tests.training.toys import WORDS, toy_model, user
from training.data.chat import Chat, Message, load_chat
from training.data.served import Served, served_from
from training.model.backbone import Backbone
from training.model.checkpoint import load_decoder, save_decoder
from training.rl.served import ServedAnswer, read_answer

TEMPERATURE = 0.7  # temperature of sampling; log-probs are those of the raw model


@torch.no_grad()
def sharp_model(directory: Path, seed: int = 1) -> Path:
    """Return a toy model with peaked distributions; with fresh weights all models are alike."""
    toy_model(directory, seed)
    decoder = load_decoder(directory)
    for parameter in decoder.parameters():
        parameter.mul_(4.0)
    save_decoder(decoder, directory)
    return directory


@torch.no_grad()
def serve(
    chat: Chat, backbone: Backbone, version: str, messages: list[dict[str, str]], seed: int
) -> tuple[str, Served]:
    """Sample an answer; the end token is forced at the limit, as if it had been sampled."""
    torch.set_num_threads(1)
    prompt = chat.prompt_ids([Message(**message) for message in messages])
    longest = 4 + seed % 9
    dice, ids, log_probs = torch.Generator().manual_seed(seed), [], []
    while not ids or ids[-1] not in chat.stop_ids:
        seen = torch.tensor([[*prompt, *ids]])
        logits_V = backbone.decoder.logits(backbone.hidden(seen, torch.ones_like(seen))[:, -1])[0]
        drawn = int(torch.multinomial((logits_V / TEMPERATURE).softmax(-1), 1, generator=dice))
        ids.append(chat.end_id if len(ids) == longest else drawn)
        log_probs.append(float(logits_V.log_softmax(-1)[ids[-1]]))
    served = Served(version, tuple(ids), tuple(log_probs), len(prompt), TEMPERATURE, 1.0)
    return " ".join(chat.decode(ids).split()), served


def served_rows(directory: Path, count: int) -> list[dict[str, Any]]:
    """Return lines of thumbs.jsonl with answers to `count` prompts, half of them liked."""
    chat, backbone, rows = load_chat(directory), Backbone(load_decoder(directory)), []
    for number in range(count):
        messages = user(f"{WORDS[number % 8]} {WORDS[number // 8 % 8]} {number}")
        for seed in range(number, number + 100):
            text, served = serve(chat, backbone, directory.name, messages, seed)
            if text:  # empty answers are not rated
                break
        line = {"messages": messages, "response": text, "thumb": "up" if number % 2 else "down"}
        rows.append({**line, "prompt_id": str(number), "served": served.fields()})
    return rows


def answers_of(rows: list[dict[str, Any]], chat: Chat, **changes: Any) -> list[ServedAnswer]:
    """Read answers like the trainer, with `changes` to every sample."""
    return [
        read_answer(
            replace(served_from(row["served"]), **changes),
            [Message(**message) for message in row["messages"]],
            row["response"],
            chat,
        )
        for row in rows
    ]
