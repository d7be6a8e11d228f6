"""`python -m training generate` on the command line."""

import io
import json
import sys
from pathlib import Path

import pytest
import torch

from tests.training.refused_commands import refused_command
from tests.training.toys import toy_model
from training.__main__ import main
from training.data.chat import Message, load_chat
from training.decoding.beam import beam_search
from training.decoding.config import BeamConfig, Rules, Task, read_presets
from training.decoding.rows import Rows, stop_at
from training.decoding.sampling import sample
from training.model.backbone import Backbone
from training.model.checkpoint import load_decoder, save_decoder
from training.model.config import gpt2_json, parse_config
from training.model.fields import FAMILIES
from training.model.transformer import Decoder, initialise
from training.runs import FAILED


def assert_failed(capsys: pytest.CaptureFixture[str], *parts: str) -> None:
    """Assert that the command failed with one line containing the given names and values."""
    (message,) = capsys.readouterr().err.splitlines()
    assert message.startswith(FAILED)
    assert [part for part in parts if part not in message] == [], message


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return toy_model(tmp_path / "model")


def answer(directory: Path, rules: Rules, tokens: int, seed: int, words: str = "good tree") -> str:
    chat, ours = load_chat(directory), Backbone(load_decoder(directory))
    rows = Rows(ours, [chat.prompt_ids([Message("user", words)])], tokens)
    return chat.decode(sample(rows, rules, stop_at(chat.stop_ids), tokens, [seed])[0].ids)


def test_answer_is_sampled_with_the_preset(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "generate",
        str(directory),
        "--prompt",
        "good tree",
        "--max-tokens",
        "20",
        "--seed",
        "5",
    ]
    for task in (Task.CODE, Task.CREATIVE):
        assert main([*words, "--preset", task]) == 0
        assert capsys.readouterr().out == answer(directory, read_presets()[task], 20, 5) + "\n"
    assert main([*words, "--temperature", "0"]) == 0
    assert capsys.readouterr().out == answer(directory, Rules(temperature=0), 20, 5) + "\n"


def test_text_is_printed_token_by_token(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    monkeypatch.setattr(sys.stdout, "write", written.append)
    main(["generate", str(directory), "--prompt", "good", "--max-tokens", "12"])
    assert len(written) > 6
    assert written[-1].endswith("\n")


def test_beam_search_prints_the_best_hypothesis(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(["generate", str(directory), "--prompt", "good", "--max-tokens", "6", "--beams", "3"])
        == 0
    )
    chat = load_chat(directory)
    prompt = chat.prompt_ids([Message("user", "good")])
    best = beam_search(
        Backbone(load_decoder(directory)), [prompt], BeamConfig(3), 6, chat.stop_ids
    )[0][0]
    assert capsys.readouterr().out == chat.decode(best.ids) + "\n"


def test_model_without_a_template_continues_plain_text(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = json.loads((directory / "tokenizer_config.json").read_text())
    del settings["chat_template"]
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    words = ["generate", str(directory), "--prompt", "good tree", "--max-tokens", "5"]
    assert main(words) == 1
    assert_failed(capsys, "tokenizer_config.json", "chat_template")
    assert main([*words, "--plain"]) == 0
    assert capsys.readouterr().out.strip()


def test_gpt2_models_generate_within_their_positions(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = json.loads((directory / "config.json").read_text())["vocab_size"]
    decoder = Decoder(parse_config(gpt2_json(rows, 32, 2, 4, max_positions=40)))
    initialise(decoder, seed=1)
    save_decoder(decoder, directory)
    words = ["generate", str(directory), "--prompt", "good tree"]
    assert main(words) == 0  # limited by the remaining positions
    assert capsys.readouterr().out.strip()
    assert main([*words, "--max-tokens", "40"]) == 1
    assert_failed(capsys, "max_positions", "40")


@pytest.mark.parametrize(
    ("option", "value", "limit"),
    [
        ("--temperature", "3", "2"),
        ("--top-p", "0", "1"),
        ("--top-k", "-2", "0"),
        ("--min-p", "1", "1"),
        ("--repetition-penalty", "0", "0"),
        ("--max-tokens", "0", "4096"),
        ("--max-tokens", "5000", "4096"),
        ("--beams", "0", "1"),
        ("--prompt", "", "1"),
        ("--stop", "", "64"),
    ],
)
def test_invalid_options_are_refused_with_field_and_limit(
    option: str, value: str, limit: str, directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", str(directory), "--prompt", "good", option, value]) == 1
    assert_failed(capsys, option.removeprefix("--").replace("-", "_"), value, limit)


@pytest.mark.parametrize(
    ("option", "value"),
    [("--temperature", "1"), ("--top-p", "0.5"), ("--top-k", "3"), ("--min-p", "0.1")],
)
def test_sampling_options_are_refused_with_beam_search(
    option: str, value: str, directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(["generate", str(directory), "--prompt", "good", "--beams", "2", option, value]) == 1
    )
    assert_failed(capsys, option.removeprefix("--").replace("-", "_"), "beams")


def test_invalid_model_directory_is_refused_without_a_traceback(
    directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", str(tmp_path / "nothing"), "--prompt", "x"]) == 1
    assert_failed(capsys, str(tmp_path / "nothing"))
    assert main(["generate", str(tmp_path), "--prompt", "x"]) == 1
    assert_failed(capsys, "config.json", str(tmp_path))
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({"model_type": "bert", "hidden_size": 8}))
    assert main(["generate", str(directory), "--prompt", "x"]) == 1
    assert_failed(capsys, "model_type", "'bert'", ", ".join(FAMILIES))
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
    assert main(["generate", str(directory), "--prompt", "x"]) == 1
    assert_failed(capsys, "model.safetensors", "pytorch_model.bin")
    (directory / "pytorch_model.bin").rename(directory / "model.safetensors")
    (directory / "tokenizer.json").write_text("{")
    assert main(["generate", str(directory), "--prompt", "x"]) == 1
    assert_failed(capsys, "tokenizer.json")
    assert torch.is_grad_enabled()


def test_prompt_is_read_from_standard_input(
    directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["generate", str(directory), "--max-tokens", "8", "--prompt"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("good\ntree\n"))
    assert main([*words, "-"]) == 0
    read = capsys.readouterr().out
    assert main([*words, "good\ntree"]) == 0
    assert capsys.readouterr().out == read
    for content, part in ((b"\n", "at least 1"), (b"\xff", "UTF-8")):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), "utf-8"))
        assert main([*words, "-"]) == 1
        assert_failed(capsys, "prompt", part)


def test_earlier_name_of_an_option_is_refused_with_the_new_one(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["generate", str(directory), "--prompt", "good", "--task", "chat"])
    assert "--preset" in capsys.readouterr().err.splitlines()[-1]


def test_reward_model_is_refused_for_generation(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (directory / "reward_model.json").write_text("{}")
    words = ["generate", str(directory), "--prompt", "x"]
    refused_command(words, capsys, field="model", reason="MISMATCH")
