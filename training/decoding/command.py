"""Implementation of `thumbwheel train generate`, with output as it is generated.

A prompt is a user message in the model's chat template. With --plain the prompt is text to
continue, for models without a template.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from training.data.chat import Message, load_chat, open_tokenizer, read_stop_ids
from training.decoding.beam import BeamConfig, beam_search
from training.decoding.rows import DecodingError, Rows, stop_at
from training.decoding.sampling import Rules, read_presets, sample
from training.decoding.tasks import DEFAULT_MAX_TOKENS, MAX_TOKENS
from training.decoding.text import IncrementalDetokenizer, check_stops, stop_at_text
from training.model.backbone import Backbone
from training.model.checkpoint import load_decoder
from training.model.config import REWARD_SETTINGS
from training.runtime.machine import to_device, use_device

SAMPLING_OPTIONS = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
)  # options of sampling, unavailable with beams


@dataclass(frozen=True)
class Prompt:
    """A prompt as ids, with its stop ids and decoder."""

    ids: Sequence[int]
    stop_ids: Sequence[int]
    decode: Callable[[Sequence[int]], str]


def generate(options: argparse.Namespace) -> int:
    """Print the growing continuation, or the best beam at the end."""
    rules = chosen_rules(options)
    if options.max_tokens is not None and not 1 <= options.max_tokens <= MAX_TOKENS:
        raise DecodingError(
            f"max_tokens: {options.max_tokens} is not 1 to {MAX_TOKENS}",
            field="max_tokens",
            reason="OUT_OF_RANGE",
            limit=f"1 to {MAX_TOKENS}",
        )
    check_stops(options.stop)
    if not options.prompt:
        raise DecodingError(
            "prompt: empty; it needs at least 1 character",
            field="prompt",
            reason="EMPTY",
            limit="at least 1",
        )
    if options.beams is not None and (
        ignored := [name for name in SAMPLING_OPTIONS if getattr(options, name) is not None]
    ):
        raise DecodingError(
            f"{ignored[0]}: cannot be combined with beams", field=ignored[0], reason="CONFLICT"
        )
    if (options.directory / REWARD_SETTINGS).exists():
        raise DecodingError(
            f"directory: {options.directory} is a reward model, which cannot generate text",
            field="directory",
            reason="UNSUPPORTED",
        )
    prompt = _read_prompt(options)
    use_device(options.device)
    backbone = Backbone(to_device(load_decoder(options.directory)))
    room = backbone.decoder.config.max_positions - len(prompt.ids)
    max_tokens = options.max_tokens or max(1, min(DEFAULT_MAX_TOKENS, room))
    text = IncrementalDetokenizer(prompt.decode, options.stop)
    if options.beams is None:
        stop = stop_at_text([text], stop_at(prompt.stop_ids), _show)
        sample(Rows(backbone, [prompt.ids], max_tokens), rules, stop, max_tokens, [options.seed])
    else:
        beams = BeamConfig(options.beams, repetition_penalty=rules.repetition_penalty)
        best = beam_search(backbone, [prompt.ids], beams, max_tokens, prompt.stop_ids)[0][0]
        for token in best.ids[:-1] if best.ids[-1] in prompt.stop_ids else best.ids:
            _show(0, "" if text.stopped else text.feed(token))
    _show(0, text.finish() + "\n")
    return 0


def chosen_rules(options: argparse.Namespace) -> Rules:
    """Return the task's preset with the overrides of the command line."""
    given = {name: getattr(options, name) for name in (*SAMPLING_OPTIONS, "repetition_penalty")}
    return replace(
        read_presets()[options.task],
        **{name: value for name, value in given.items() if value is not None},
    )


def _read_prompt(options: argparse.Namespace) -> Prompt:
    """Tokenise the prompt in the chat template, or with --plain as it is."""
    if not options.plain:
        chat = load_chat(options.directory)
        ids = chat.prompt_ids([Message("user", options.prompt)])
        return Prompt(ids, chat.stop_ids, chat.decode)
    tokenizer, settings = open_tokenizer(options.directory)

    def decode(ids: Sequence[int]) -> str:
        return tokenizer.decode(list(ids), skip_special_tokens=True)

    return Prompt(
        tokenizer.encode(options.prompt).ids,
        read_stop_ids(options.directory, tokenizer, settings),
        decode,
    )


def _show(_: int, words: str) -> None:
    sys.stdout.write(words)
    sys.stdout.flush()
