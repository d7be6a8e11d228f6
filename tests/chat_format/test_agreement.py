"""One conversation has the same ids in training, behind the generator, and in the predictor."""

import json
from pathlib import Path

import pytest
from thumbwheel.chat.v1 import chat_pb2

from services.generator.answering.plain_messages import PlainMessages
from services.generator.answering.presets import Sampling
from services.predictor.text.chat_template import read_chat_template, render_chat
from services.predictor.text.codec import TextCodec
from tests.support.echo_server import EchoServer
from tests.support.tokenizers_with_markers import CHATML, LLAMA_3, byte_level, write_tokenizer
from training.data.chat import Message, load_chat
from training.data.served import Served
from training.rl.served import read_answer

NANO = Path(__file__).resolve().parents[2] / "models" / "nano"
ROLES = {
    chat_pb2.ROLE_SYSTEM: "system",
    chat_pb2.ROLE_USER: "user",
    chat_pb2.ROLE_ASSISTANT: "assistant",
}
TEMPLATES = {
    CHATML: "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    LLAMA_3: "<|begin_of_text|>{% for m in messages %}<|start_header_id|>{{ m.role }}"
    "<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}",
}
# Labels of the cases and their texts; A and B stand for control tokens of the tokenizer.
CASES = {
    "none": "hello",
    "one": "aAb",
    "first and last": "A b A",
    "several": "AB\nBA",
    "disarmed before": "what is < |im_end|>?",
    "own marker of a family": "<end_of_turn>",
    "inside of another": "<|im_A end|>",
    "other spelling": "＜|im_end|＞ <|IM_END|>",
    "white space": "  A \n\t B  ",
    "scripts": "Grüße, 你好 A 🙂 صباح B",
}


@pytest.fixture(params=["nano", "chatml", "llama-3"])
def directory(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "nano":
        return NANO
    special = CHATML if request.param == "chatml" else LLAMA_3
    write_tokenizer(tmp_path, byte_level(special))
    config = {"chat_template": TEMPLATES[special], "eos_token": special[1]}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    return tmp_path


@pytest.mark.parametrize("label", CASES)
async def test_ids_agree(label: str, directory: Path) -> None:
    codec, template = TextCodec.from_directory(directory), read_chat_template(directory)
    assert template is not None
    special = template.control_tokens.texts
    text = CASES[label].replace("A", special[0]).replace("B", special[-1])
    numbers = (
        chat_pb2.ROLE_SYSTEM,
        chat_pb2.ROLE_USER,
        chat_pb2.ROLE_ASSISTANT,
        chat_pb2.ROLE_USER,
    )
    server = EchoServer()
    messages = [chat_pb2.HistoryMessage(role=number, text=text) for number in numbers]
    await PlainMessages(server, lambda version: str(directory)).answer(
        "v1", messages, Sampling(temperature=1.0, top_p=1.0, max_tokens=1), lambda chunk: None
    )
    sent = [{"role": ROLES[item.role], "content": item.text} for item in server.messages]
    typed = [{"role": ROLES[number], "content": text} for number in numbers]

    async def predictor_ids(rows: list[dict[str, str]]) -> list[int]:
        return await codec.encode(render_chat(template, rows, True), add_special_tokens=False)

    trained = load_chat(directory).prompt_ids([Message(**row) for row in typed])
    assert await predictor_ids(sent) == trained
    assert await predictor_ids(typed) == trained
    # As many control tokens as in a conversation without any in its texts.
    honest = load_chat(directory).prompt_ids([Message(row["role"], "hello") for row in typed])
    ids = {codec.token_id(item) for item in special}
    assert [i for i in trained if i in ids] == [i for i in honest if i in ids]


def test_an_answer_with_a_restored_control_token_is_trained_on_as_sampled(directory: Path) -> None:
    chat = load_chat(directory)
    template = read_chat_template(directory)
    assert template is not None
    special = template.control_tokens.texts[0]
    prompt = [Message("user", f"What is {special}?")]
    sampled = chat.response_ids(f"It is {special[0]} {special[1:]}.")
    served = Served("v1", tuple(sampled), (0.0,) * len(sampled), len(chat.prompt_ids(prompt)))
    answer = read_answer(served, prompt, f"It is {special}.", chat)
    assert (answer.unfit, answer.example.response) == ("", tuple(sampled))
