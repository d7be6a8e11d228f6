"""Implementation of `thumbwheel train generate`, with output as it is generated.

A prompt is a user message in the model's chat template. With --plain the prompt is text to
continue, for models without a template.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace

from training.data.chat import Message, load_chat
from training.decoding.beam import BeamConfig, beam_search
from training.decoding.prompts import PlainText, Prompts, check_generates
from training.decoding.rows import DecodingError, Rows, stop_at
from training.decoding.sampling import Rules, read_presets, sample
from training.decoding.tasks import DEFAULT_MAX_TOKENS, MAX_TOKENS
from training.decoding.text import IncrementalDetokenizer, check_stops, stop_at_text
from training.model.backbone import Backbone
from training.model.checkpoint import load_decoder
from training.runtime.context import Machine
from training.runtime.machine import sampling_threads, to_device, use_device

STANDARD_INPUT = "-"
SAMPLING_OPTIONS = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
)  # options of sampling, unavailable with beams


def generate(options: argparse.Namespace) -> int:
    """Print the growing continuation, or the best beam at the end."""
    rules = chosen_rules(options)
    check_max_tokens(options.max_tokens)
    check_stops(options.stop)
    question = _prompt_text(options.prompt)
    if not question:
        raise DecodingError(
            "prompt: empty, and needs at least 1 character",
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
    check_generates(options.directory)
    prompts: Prompts = (
        PlainText(options.directory, with_control_tokens=True)
        if options.plain
        else load_chat(options.directory)
    )
    ids = prompts.prompt_ids([Message("user", question)])
    use_device(options.device)
    backbone = Backbone(to_device(load_decoder(options.directory)))
    room = backbone.decoder.config.max_positions - len(ids)
    max_tokens = options.max_tokens or max(1, min(DEFAULT_MAX_TOKENS, room))
    text = IncrementalDetokenizer(prompts.decode, options.stop)
    if options.beams is None:
        stop = stop_at_text([text], stop_at(prompts.stop_ids), _show)
        with sampling_threads(Machine()):
            sample(Rows(backbone, [ids], max_tokens), rules, stop, max_tokens, [options.seed])
    else:
        beams = BeamConfig(options.beams, repetition_penalty=rules.repetition_penalty)
        best = beam_search(backbone, [ids], beams, max_tokens, prompts.stop_ids)[0][0]
        for token in best.ids[:-1] if best.ids[-1] in prompts.stop_ids else best.ids:
            _show(0, "" if text.stopped else text.feed(token))
    _show(0, text.finish() + "\n")
    return 0


def check_max_tokens(max_tokens: int | None) -> None:
    """Check the limit of an answer; None is the default.

    Raises:
        DecodingError: the limit is out of range.
    """
    if max_tokens is not None and not 1 <= max_tokens <= MAX_TOKENS:
        raise DecodingError(
            f"max_tokens: {max_tokens} is not 1 to {MAX_TOKENS}",
            field="max_tokens",
            reason="OUT_OF_RANGE",
            limit=f"1 to {MAX_TOKENS}",
        )


def chosen_rules(options: argparse.Namespace) -> Rules:
    """Return the preset with the overrides of the command line."""
    given = {name: getattr(options, name) for name in (*SAMPLING_OPTIONS, "repetition_penalty")}
    return replace(
        read_presets()[options.preset],
        **{name: value for name, value in given.items() if value is not None},
    )


def _prompt_text(option: str) -> str:
    """Return the text of --prompt; `-` is standard input without its last line end."""
    if option != STANDARD_INPUT:
        return option
    try:
        return sys.stdin.read().removesuffix("\n")
    except UnicodeDecodeError as error:
        raise DecodingError(
            "prompt: standard input is not UTF-8", field="prompt", reason="NOT_UTF8", limit="UTF-8"
        ) from error


def _show(_: int, words: str) -> None:
    sys.stdout.write(words)
    sys.stdout.flush()
