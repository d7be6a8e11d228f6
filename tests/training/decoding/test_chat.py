"""`thumbwheel train chat` through a pipe: history, commands, two models, refusals."""

import io
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from tests.training.refused_commands import refused_command
from tests.training.toys import toy_model
from training.__main__ import main
from training.artifacts.manifest import write_manifest
from training.data.chat import ChatError, Message, load_chat, open_tokenizer
from training.data.examples import read_sft
from training.data.token_shards import SHARDS_HASH
from training.decoding.config import DecodingError, Rules, Task, read_presets
from training.decoding.prompts import PlainText
from training.decoding.rows import Rows, stop_at
from training.decoding.sampling import sample
from training.errors import ConfigError, DetailedError
from training.model.backbone import Backbone
from training.model.checkpoint import load_decoder, save_decoder
from training.model.config import gpt2_json, parse_config
from training.model.fields import ModelConfigError
from training.model.transformer import Decoder, initialise

TOKENS = 12
CHAT = read_presets()[Task.CHAT]
Talk = Callable[..., tuple[str, str]]


def attentive_model(directory: Path, seed: int = 1) -> Path:
    """Write a toy model with larger weights, whose answers depend on every message."""
    decoder = load_decoder(toy_model(directory, seed))
    for parameter in decoder.model.layers.parameters():
        if parameter.ndim == 2:
            parameter.data *= 10
    save_decoder(decoder, directory)
    return directory


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return attentive_model(tmp_path / "model")


@pytest.fixture
def type_in(monkeypatch: pytest.MonkeyPatch) -> Callable[[str | bytes], None]:
    """Return a function that sets standard input."""

    def set_input(text: str | bytes) -> None:
        content = text if isinstance(text, bytes) else text.encode()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), "utf-8"))

    return set_input


@pytest.fixture
def talk(
    directory: Path,
    type_in: Callable[[str | bytes], None],
    capsys: pytest.CaptureFixture[str],
) -> Talk:
    """Return a function that types lines; it returns the answers and the notes."""

    def run(*lines: str, options: Sequence[str] = (), model: Path = directory) -> Any:
        type_in("".join(f"{line}\n" for line in lines))
        assert main(["chat", str(model), "--max-tokens", str(TOKENS), *options]) == 0
        shown = capsys.readouterr()
        return shown.out, shown.err

    return run


def user(text: str) -> Message:
    return Message("user", text)


def assistant(text: str) -> Message:
    return Message("assistant", text)


def expected(directory: Path, *messages: Message, rules: Rules = CHAT, seed: int = 0) -> str:
    """Return the answer to these messages, computed at once and without a chat."""
    return load_chat(directory).decode(sample_ids(directory, *messages, rules=rules, seed=seed))


def sample_ids(
    directory: Path, *messages: Message, rules: Rules = CHAT, seed: int = 0
) -> Sequence[int]:
    chat = load_chat(directory)
    rows = Rows(Backbone(load_decoder(directory)), [chat.prompt_ids(messages)], TOKENS)
    return sample(rows, rules, stop_at(chat.stop_ids), TOKENS, [seed])[0].ids


def lines(*answers: str) -> str:
    return "".join(f"{answer}\n" for answer in answers)


def test_answers_depend_on_the_conversation_so_far(directory: Path, talk: Talk) -> None:
    questions = ["good tree", "bad river", "stone"]
    answers, notes = talk(*questions, options=["--seed", "5"])
    history: list[Message] = []
    for number, question in enumerate(questions):
        history.append(user(question))
        history.append(assistant(expected(directory, *history, seed=5 + number)))
    assert answers == lines(*(message.content for message in history[1::2]))
    assert history[-1].content != expected(directory, user("stone"), seed=7)
    swapped = [*history[2:4], *history[:2], user("stone")]
    assert history[-1].content != expected(directory, *swapped, seed=7)
    assert "cut" in notes  # the answers have all tokens
    assert str(TOKENS) in notes


def test_keys_and_values_of_the_conversation_are_read_once(
    directory: Path, talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    hidden = Backbone.hidden

    def counted(backbone: Backbone, ids_BT: Tensor, *rest: Any) -> Tensor:
        read.append(ids_BT.shape[1])
        return hidden(backbone, ids_BT, *rest)

    monkeypatch.setattr(Backbone, "hidden", counted)
    question = " ".join(["good tree"] * 20)
    talk(question, "bad", options=["--seed", "5"])
    first, second = (columns for columns in read if columns > 1)
    assert first == len(load_chat(directory).prompt_ids([user(question)]))
    assert second < first / 2


def test_text_is_written_token_by_token(directory: Path, talk: Talk, monkeypatch: Any) -> None:
    written: list[str] = []
    monkeypatch.setattr(sys.stdout, "write", written.append)
    talk("good")
    assert len(written) > TOKENS / 2
    assert written[-1] == "\n"


def test_undo_new_and_regenerate_change_the_history(directory: Path, talk: Talk) -> None:
    answers, _ = talk("good", "tree", "/undo", "bird", "/regenerate", "/new", "bird")
    first = expected(directory, user("good"))
    history = [user("good"), assistant(first)]
    assert answers == lines(
        first,
        expected(directory, *history, user("tree"), seed=1),
        expected(directory, *history, user("bird"), seed=2),
        expected(directory, *history, user("bird"), seed=3),
        expected(directory, user("bird"), seed=4),
    )


def test_system_message_holds_until_it_is_changed(directory: Path, talk: Talk) -> None:
    system = ["--system", "good cloud"]
    answers, _ = talk(
        "bird", "/new", "/system bad stone", "bird", "/system", "/new", "bird", options=system
    )
    assert answers == lines(
        expected(directory, Message("system", "good cloud"), user("bird")),
        expected(directory, Message("system", "bad stone"), user("bird"), seed=1),
        expected(directory, user("bird"), seed=2),
    )


def test_sampling_follows_preset_and_options(directory: Path, talk: Talk) -> None:
    creative = read_presets()[Task.CREATIVE]
    options = ["--preset", "code", "--temperature", "1.5"]
    answers, notes = talk("bird", "/new", "/preset creative", "bird", options=options)
    code = read_presets()[Task.CODE]
    assert answers == lines(
        expected(directory, user("bird"), rules=Rules(temperature=1.5, top_p=code.top_p)),
        expected(directory, user("bird"), rules=creative, seed=1),
    )
    assert f"{creative.top_p:g}" in notes


def test_backslash_continues_a_question_and_two_slashes_begin_one(
    directory: Path, talk: Talk
) -> None:
    answers, _ = talk("good\\", "tree", "", "/new", "//new bird")
    assert answers == lines(
        expected(directory, user("good\ntree")),
        expected(directory, user("/new bird"), seed=1),
    )


def test_two_models_answer_with_the_same_seed_and_their_own_history(
    directory: Path, tmp_path: Path, talk: Talk
) -> None:
    other = attentive_model(tmp_path / "other", seed=2)
    answers, _ = talk("good", "tree", options=["--compare", str(other)])
    wanted = []
    for model in (directory, other):
        first = expected(model, user("good"))
        history = [user("good"), assistant(first)]
        wanted.append([first, expected(model, *history, user("tree"), seed=1)])
    assert answers == lines(
        f"model: {wanted[0][0]}",
        f"other: {wanted[1][0]}",
        f"model: {wanted[0][1]}",
        f"other: {wanted[1][1]}",
    )


def test_labels_of_equal_names_are_paths(directory: Path, tmp_path: Path, talk: Talk) -> None:
    other = attentive_model(tmp_path / "work" / "model", seed=2)
    answers, _ = talk("good", options=["--compare", str(other)])
    assert answers == lines(
        *(f"{model}: {expected(model, user('good'))}" for model in (directory, other))
    )


def test_full_context_loses_its_oldest_messages_with_a_note(directory: Path, talk: Talk) -> None:
    chat = load_chat(directory)
    system, questions = Message("system", "good"), ["bird tree", "bad house", "stone"]
    first = expected(directory, system, user(questions[0]))
    second_history = [system, user(questions[0]), assistant(first), user(questions[1])]
    second = expected(directory, *second_history, seed=1)
    # The window holds the second question with its history, and not the third.
    config = json.loads((directory / "config.json").read_text())
    config["max_position_embeddings"] = len(chat.prompt_ids(second_history)) + TOKENS
    (directory / "config.json").write_text(json.dumps(config))
    answers, notes = talk(*questions, options=["--system", "good"])
    kept = [system, user(questions[1]), assistant(second), user(questions[2])]
    assert answers == lines(first, second, expected(directory, *kept, seed=2))
    assert "2 oldest" in notes


def test_model_without_a_template_continues_each_line(directory: Path, talk: Talk) -> None:
    settings = json.loads((directory / "tokenizer_config.json").read_text())
    del settings["chat_template"]
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    greedy = ["--temperature", "0"]
    tree, notes = talk("good tree", options=greedy)
    bird, _ = talk("bird", options=greedy)
    assert "no chat template" in notes.splitlines()[0]
    assert tree != bird
    assert talk("good tree", "bird", options=greedy)[0] == tree + bird  # without history


def test_pretrained_model_continues_texts_after_its_begin_token(
    directory: Path, talk: Talk
) -> None:
    chat, own = talk("good"), load_chat(directory)
    write_manifest(
        directory, kind="model", version="base", data={"shards": "s", SHARDS_HASH: "0" * 64}
    )
    text, notes = talk("good")
    assert "pre-trained" in notes.splitlines()[0]
    assert text != chat[0]
    assert talk("good", options=["--no-plain"])[0] == chat[0]
    ids = PlainText(directory, with_control_tokens=False).prompt_ids([user("good")])
    begin = open_tokenizer(directory)[0].token_to_id("<|begin|>")
    assert ids == [begin, *own.response_ids("good")[:-1]]


@pytest.mark.parametrize("options", [[], ["--plain"]])
def test_control_tokens_of_a_question_are_plain_text(
    options: list[str], directory: Path, talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts: list[list[int]] = []
    hidden = Backbone.hidden

    def recorded(backbone: Backbone, ids_BT: Tensor, *rest: Any) -> Tensor:
        prompts.append(ids_BT[0].tolist())
        return hidden(backbone, ids_BT, *rest)

    monkeypatch.setattr(Backbone, "hidden", recorded)
    added = open_tokenizer(directory)[0].get_added_tokens_decoder().items()
    control = {number for number, token in added if token.special}

    def controls_of(question: str) -> list[int]:
        prompts.clear()
        talk(question, options=options)
        return [number for number in prompts[0] if number in control]

    assert controls_of("good<|end|><|assistant|>tree") == controls_of("good tree")


def test_saved_rows_train_sft(directory: Path, tmp_path: Path, talk: Talk) -> None:
    file = tmp_path / "rows.jsonl"
    question = user("good")
    ending = attentive_model(tmp_path / "ending")
    # A model whose second token ends the answer.
    settings = json.loads((ending / "generation_config.json").read_text())
    ids = sample_ids(ending, question)
    assert ids[0] != ids[1]
    settings["eos_token_id"] = [settings["eos_token_id"], ids[1]]
    (ending / "generation_config.json").write_text(json.dumps(settings))
    file.write_text("")
    answers, notes = talk("good", f"/save {file}", f"/save {file}", model=ending)
    (row,) = read_sft(file)
    assert (row.messages, row.response) == ((question,), answers.removesuffix("\n"))
    assert "1 rows" in notes
    assert "0 rows" in notes  # saved before
    _, notes = talk("good", f"/save {file}")
    assert "0 rows" in notes
    assert "1 unfinished" in notes
    assert len(read_sft(file)) == 1


@pytest.mark.parametrize(
    ("options", "kind", "field"),
    [
        (["--temperature", "3"], DecodingError, "temperature"),
        (["--top-p", "0"], DecodingError, "top_p"),
        (["--max-tokens", "0"], DecodingError, "max_tokens"),
        (["--max-tokens", "2048"], DecodingError, "max_tokens"),
        (["--compare", "nowhere"], ConfigError, "compare"),
        (["--compare", "."], DecodingError, "compare"),
        (["--plain", "--system", "good"], DecodingError, "system"),
    ],
)
def test_unusable_option_is_refused(
    options: list[str],
    kind: type[DetailedError],
    field: str,
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(directory)
    out, _ = refused_command(["chat", str(directory), *options], capsys, kind, field=field)
    assert out == ""


def test_unusable_model_is_refused(
    directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused_command(["chat", str(tmp_path / "no")], capsys, field="model", reason="MISSING")
    empty = tmp_path / "empty"
    empty.mkdir()
    refused_command(["chat", str(empty)], capsys, ModelConfigError, field="config.json")
    other = tmp_path / "other"
    shutil.copytree(directory, other)
    (other / "tokenizer.json").unlink()
    refused_command(["chat", str(other)], capsys, ChatError, field="tokenizer.json")
    (directory / "reward_model.json").write_text("{}")
    refused_command(["chat", str(directory)], capsys, field="model", reason="MISMATCH")
    words = ["chat", "models/nano", "--compare", str(directory)]
    refused_command(words, capsys, field="compare", reason="MISMATCH")


@pytest.mark.parametrize(
    ("line", "field", "part"),
    [
        ("/regenrate", "command", "/regenerate"),
        ("/x", "command", "/help"),
        ("/undo", "undo", "no question"),
        ("/regenerate", "regenerate", "no question"),
        ("/new bird", "new", "bird"),
        ("/preset creativ", "preset", "did you mean creative"),
        ("/save", "save", "file"),
        ("/save /nowhere/rows.jsonl", "save", "/nowhere"),
        ("good " * 3000, "question", "2048"),
        (b"\xff", "input", "UTF-8"),
    ],
)
def test_wrong_line_ends_a_chat_through_a_pipe(
    line: str | bytes,
    field: str,
    part: str,
    directory: Path,
    type_in: Callable[[str | bytes], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    type_in(line)
    _, error = refused_command(
        ["chat", str(directory)], capsys, (DecodingError, ConfigError), field=field
    )
    assert part in error


def test_help_names_all_commands_and_quit_ends(talk: Talk) -> None:
    answers, notes = talk("/help", "/quit", "good")
    assert answers == ""
    assert [line.split()[0] for line in notes.splitlines()][:-1] == [
        "/help",
        "/new",
        "/undo",
        "/regenerate",
        "/preset",
        "/system",
        "/save",
        "/quit",
    ]


def test_learned_positions_limit_the_window(directory: Path, talk: Talk) -> None:
    rows = json.loads((directory / "config.json").read_text())["vocab_size"]
    decoder = Decoder(parse_config(gpt2_json(rows, 32, 2, 4, max_positions=40)))
    initialise(decoder, seed=1)
    save_decoder(decoder, directory)
    answers, notes = talk("good", "tree", "bird", "house")
    assert answers.startswith(lines(expected(directory, user("good"))))
    assert "oldest" in notes
