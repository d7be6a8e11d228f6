"""Checks of `thumbwheel train generate` and `chat` before an import of torch, and `generate`.

A prompt of `generate` is a user message in the model's chat template. With --plain the prompt is
text to continue, for models without a template. Output is written as it is generated.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from training.data.chat import Message, load_chat
from training.decoding.config import (
    DEFAULT_MAX_TOKENS,
    BeamConfig,
    DecodingError,
    Rules,
    check_max_tokens,
    check_stops,
    read_presets,
)
from training.decoding.prompts import PlainText, Prompts, open_prompts
from training.decoding.terminal import Terminal
from training.model.config import read_language_model
from training.runtime.context import Machine, check_device

STANDARD_INPUT = "-"
SAMPLING_OPTIONS = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
)  # options of sampling, unavailable with beams


def generate(options: argparse.Namespace) -> int:
    """Print the growing continuation, or the best beam at the end."""
    rules = checked_rules(options)
    check_stops(options.stop)
    question = _prompt_text(options.prompt)
    if not question:
        raise DecodingError(
            "prompt: empty, and needs at least 1 character",
            field="prompt",
            reason="EMPTY",
            limit="at least 1",
        )
    beams = None
    if options.beams is not None:
        if ignored := [name for name in SAMPLING_OPTIONS if getattr(options, name) is not None]:
            raise DecodingError(
                f"{ignored[0]}: cannot be combined with beams", field=ignored[0], reason="CONFLICT"
            )
        beams = BeamConfig(options.beams, repetition_penalty=rules.repetition_penalty)
    directory: Path = options.model
    config = read_language_model(directory, "model")
    prompts: Prompts = (
        PlainText(directory, with_control_tokens=True) if options.plain else load_chat(directory)
    )
    ids = prompts.prompt_ids([Message("user", question)])
    room = config.max_positions - len(ids)
    max_tokens = options.max_tokens or max(1, min(DEFAULT_MAX_TOKENS, room))
    # These import torch, so all options are checked before.
    from training.decoding.beam import beam_search
    from training.decoding.rows import Rows, stop_at
    from training.decoding.sampling import sample
    from training.decoding.text import IncrementalDetokenizer, stop_at_text
    from training.model.backbone import Backbone
    from training.model.checkpoint import load_decoder
    from training.runtime.machine import sampling_threads, to_device, use_device

    use_device(options.device)
    backbone = Backbone(to_device(load_decoder(directory)))
    text = IncrementalDetokenizer(prompts.decode, options.stop)
    if beams is None:
        stop = stop_at_text([text], stop_at(prompts.stop_ids), _show)
        with sampling_threads(Machine()):
            sample(Rows(backbone, [ids], max_tokens), rules, stop, max_tokens, [options.seed])
    else:
        best = beam_search(backbone, [ids], beams, max_tokens, prompts.stop_ids)[0][0]
        for token in best.ids[:-1] if best.ids[-1] in prompts.stop_ids else best.ids:
            _show(0, "" if text.stopped else text.feed(token))
    _show(0, text.finish() + "\n")
    return 0


def chat(options: argparse.Namespace) -> int:
    """Check options and directories of a chat, load the models and answer until the end.

    Raises:
        DecodingError, ChatError, ConfigError: an option or a model is unusable.
    """
    rules = checked_rules(options)
    directories = labelled(options.model, options.compare)
    prompts = {label: open_prompts(path, options.plain) for label, path in directories.items()}
    terminal = Terminal()
    terminal.write_dim("loading")
    # Imports torch, so all options are checked before.
    from training.decoding.chat import converse

    return converse(options, rules, directories, prompts, terminal)


def checked_rules(options: argparse.Namespace) -> Rules:
    """Return the preset with the overrides of the command line, after checks of common options.

    Raises:
        DecodingError, ConfigError: a parameter, the limit of an answer or the device is invalid.
    """
    check_max_tokens(options.max_tokens)
    check_device(options.device)
    given = {name: getattr(options, name) for name in (*SAMPLING_OPTIONS, "repetition_penalty")}
    return replace(
        read_presets()[options.preset],
        **{name: value for name, value in given.items() if value is not None},
    )


def labelled(directory: Path, other: Path | None) -> dict[str, Path]:
    """Return the directories by the labels of their answers: their names, or else their paths.

    Raises:
        ConfigError, DecodingError and others: as `read_language_model`, or both directories are the
            same.
    """
    read_language_model(directory, "model")
    if other is None:
        return {directory.resolve().name: directory}
    read_language_model(other, "compare")
    if directory.resolve() == other.resolve():
        raise DecodingError(
            f"compare: {other} is the same model; another one is needed",
            field="compare",
            reason="CONFLICT",
        )
    names = [directory.resolve().name, other.resolve().name]
    if names[0] == names[1]:
        names = [str(directory), str(other)]
    return dict(zip(names, (directory, other), strict=True))


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
