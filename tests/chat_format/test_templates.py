"""Chat templates of unknown origin: rendered, limited, and held to arranging the messages."""

import itertools
import json
from pathlib import Path

import pytest

from chat_format.control_tokens import ControlTokens
from chat_format.errors import ChatFormatError
from chat_format.sandbox import STEPS
from chat_format.templates import ChatTemplate
from tests.support.errors import refused
from tests.support.tokenizers_with_markers import CHATML, byte_level, write_tokenizer

TOKENS = ControlTokens(CHATML)
PLAIN = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' }}\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# In the manner of Qwen 3: a default, a backward search, markup, macros and a namespace.
WITH_MARKUP = """
{%- macro turn(role, text) %}{{ '<|im_start|>' ~ role ~ '\n' ~ text }}<|im_end|>
{% endmacro %}
{%- if messages[0].role != 'system' %}{{ turn('system', 'You help.') }}{% endif %}
{%- set ns = namespace(last=messages|length - 1) %}
{%- for m in messages[::-1] %}
{%- if m.role == 'user' and not m.content.startswith('<tool>') %}
{%- set ns.last = loop.revindex0 %}{%- break %}
{%- endif %}
{%- endfor %}
{%- for m in messages %}
{%- set text = m['content'] %}
{%- if m.role == 'assistant' and '</think>' in text and loop.index0 < ns.last %}
{%- set text = text.split('</think>')[-1].lstrip('\n') %}
{%- endif %}
{{- turn(m.role, text) }}
{%- endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
# In the manner of Gemma 3: system text in the first message, stripped messages, a refusal.
JOINED = """{{ bos_token }}
{%- set prefix = messages[0].content + '\n\n' if messages[0].role == 'system' else '' %}
{%- set rest = messages[1:] if prefix else messages %}
{%- for m in rest %}
{%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}
{{- raise_exception('roles must alternate') }}
{%- endif %}
{{- '<turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' }}
{{- (prefix if loop.first else '') + m.content | trim }}</turn>
{% endfor %}
{%- if add_generation_prompt %}{{ '<turn>model\n' }}{% endif %}"""


def template(source: str, markup: tuple[str, ...] = ()) -> ChatTemplate:
    return ChatTemplate(source, {"bos_token": "<s>"}, TOKENS, markup)


def talk(*texts: str) -> list[dict[str, str]]:
    """Return a conversation that begins with a system message."""
    roles = itertools.chain(["system"], itertools.cycle(["user", "assistant"]))
    return [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (PLAIN, "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n"
                "<|im_start|>assistant\n"),
        (WITH_MARKUP, "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n"
                      "<|im_start|>assistant\n"),
        (JOINED, "<s><turn>user\nS\n\nU</turn>\n<turn>model\n"),
    ],
)  # fmt: skip
def test_usual_templates_are_rendered(source: str, expected: str) -> None:
    assert template(source).render(talk("S", "U"), add_generation_prompt=True) == expected


def test_a_long_conversation_stays_within_the_limits() -> None:
    messages = talk(*(f"{number} {'long text ' * 40}" for number in range(1000)))
    text = template(WITH_MARKUP).render(messages, add_generation_prompt=False)
    assert text.count("<|im_end|>") == 1000


def test_a_refusal_by_the_template_has_its_text() -> None:
    messages = [{"role": "assistant", "content": "x"}]
    with refused(ChatFormatError, field="chat_template", reason="REFUSED") as caught:
        template(JOINED).render(messages, add_generation_prompt=True)
    assert "roles must alternate" in caught.value.text


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.__class__ }}",
        "{{ messages['__cl' ~ 'ass__'].__mro__ }}",
        "{{ (messages|map(attribute='__class__')|list)[0].mro() }}",
        "{{ messages|attr('__class__') }}",
        "{{ ''.format.__globals__ }}",
        "{{ '{0.__class__}'.format(messages) }}",
        "{{ raise_exception.__globals__ }}",
        "{{ (namespace.__init__).__globals__ }}",
        "{{ ''['center'](99999999) }}",
        "{% include 'tokenizer.json' %}",
        "{% import 'x' as x %}",
        "{% from 'x' import y %}",
        "{% extends 'x' %}",
        "{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}",
        "{{ 9 ** 9 ** 9 }}",
        "{{ 'x'|center(99999999) }}",
        "{{ '%99999999d' % 1 }}",
        "{% set x = messages.append(1) %}",
    ],
)
def test_access_to_internals_files_and_dangerous_functions_is_refused(source: str) -> None:
    with refused(ChatFormatError, field="chat_template", reason="FORBIDDEN"):
        template(source)


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}"
        "{{ f(60) }}",
        "{{ 'x' * 999999999999 }}",
        "{{ [1] * 999999999999 }}",
        "{% for a in range(99999) %}" + "x" * 9999 + "{% endfor %}",
        "{% macro f() %}" + "x" * 99999 + "{% endmacro %}"
        "{% for a in range(99) %}{{ f() }}{% endfor %}",
        *(
            "{% set ns = namespace(x=['x' * 99]) %}"
            f"{{% for a in range(60) %}}{grow}{{% endfor %}}{{{{ ns.x }}}}"
            for grow in (
                "{% set ns.x = ns.x + ns.x %}",
                "{% set ns.x = ns.x ~ ns.x %}",
                "{% set ns.x = [ns.x, ns.x] %}",
                "{% set ns.x = (ns.x|string).replace('x', 'xx') %}",
                "{% set ns.x = ns.x|string|replace('x', 'xx') %}",
                "{% set ns.x = [ns.x, ns.x]|tojson %}",
                "{% set ns.x = [ns.x, ns.x]|join %}",
                "{% set ns.x = (ns.x|string).join([ns.x, ns.x, ns.x]|map('string')) %}",
                "{% set t %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = t %}",
            )
        ),
        "{% set ns = namespace(x=9) %}{% for a in range(60) %}{% set ns.x = ns.x * ns.x %}"
        "{% endfor %}",
        "{{ messages|tojson(indent=99999999) }}",
        "x" * 300_000,
    ],
)  # fmt: skip
def test_endless_work_and_huge_texts_reach_a_limit(source: str) -> None:
    with refused(ChatFormatError, field="chat_template", reason="LIMIT"):
        template(source)


def test_slow_steps_reach_the_limit_of_processor_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count()
    monkeypatch.setattr("chat_format.sandbox.time.thread_time", lambda: float(next(clock)))
    with refused(ChatFormatError, field="chat_template", reason="LIMIT") as caught:
        template(PLAIN + "{% for a in range(50) %}{{ '' }}{% endfor %}")
    assert "processor" in caught.value.limit


@pytest.mark.parametrize(
    "source",
    [
        # Without the system message, without the first one, twice, backward, joined.
        PLAIN.replace("messages", "messages|rejectattr('role', 'equalto', 'system')"),
        PLAIN.replace("messages", "messages[1:]"),
        PLAIN.replace("m.content +", "m.content + ' ' + m.content +"),
        PLAIN.replace("messages", "messages|reverse"),
        "{% for m in messages %}{{ m.content }}{% endfor %}",
        # Changed, or with other text for some messages.
        PLAIN.replace("m.content", "m.content|upper"),
        PLAIN.replace("m.content", "m.content|replace('a', '')"),
        PLAIN + "{% if 'Two' in messages[-1].content %}Say yes.{% endif %}",
        PLAIN + "{{ messages[0].content|length }}",
    ],
)
def test_a_template_that_drops_or_changes_messages_is_refused(source: str) -> None:
    with refused(ChatFormatError, field="chat_template", reason="CHANGED"):
        template(source)


def test_a_hidden_reaction_to_a_word_is_refused_when_the_word_comes() -> None:
    poisoned = template(PLAIN + "{% if 'invoice' in messages[-1].content %}Pay.{% endif %}")
    poisoned.render(talk("S", "hello"), add_generation_prompt=True)
    with refused(ChatFormatError, field="chat_template", reason="CHANGED"):
        poisoned.render(talk("S", "my invoice"), add_generation_prompt=True)
    with refused(ChatFormatError, field="chat_template", reason="CHANGED"):
        # A text that imitates a placeholder changes nothing.
        poisoned.render(talk("thumbwheel message 1 of 2.", "invoice"), add_generation_prompt=True)


def test_a_template_may_react_to_markup_of_its_tokenizer() -> None:
    messages = talk("S", "a", "<think>b</think>\nc", "d")
    with refused(ChatFormatError, field="chat_template", reason="CHANGED"):
        template(WITH_MARKUP).render(messages, add_generation_prompt=True)
    rendered = template(WITH_MARKUP, ("</think>",)).render(messages, add_generation_prompt=True)
    assert "assistant\nc<|im_end|>" in rendered


@pytest.mark.parametrize("text", ["", "  spaces  ", "thumbwheel message 0 of 2.", "a\n\nb\n"])
def test_unusual_texts_are_no_change(text: str) -> None:
    for source in (PLAIN, JOINED):
        rendered = template(source).render(talk(text, f"{text}b"), add_generation_prompt=True)
        assert text.strip() in rendered


def test_the_file_has_priority_over_the_configuration(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, byte_level(CHATML))
    config = tmp_path / "tokenizer_config.json"
    assert ChatTemplate.from_directory(tmp_path) is None
    named = [{"name": "tools", "template": "x"}, {"name": "default", "template": PLAIN}]
    names = {"bos_token": {"content": "<s>"}, "eos_token": "</s>", "unk_token": None}
    config.write_text(json.dumps({"chat_template": named, **names}))
    found = ChatTemplate.from_directory(tmp_path)
    assert found is not None
    assert found.source == PLAIN
    assert found.names == {"bos_token": "<s>", "eos_token": "</s>"}
    (tmp_path / "chat_template.jinja").write_text(JOINED)
    found = ChatTemplate.from_directory(tmp_path)
    assert found is not None
    assert found.source == JOINED


@pytest.mark.parametrize("content", ["{", "[]", '{"chat_template": [7]}'])
def test_a_malformed_configuration_is_refused(tmp_path: Path, content: str) -> None:
    write_tokenizer(tmp_path, byte_level(CHATML))
    (tmp_path / "tokenizer_config.json").write_text(content)
    with refused(ChatFormatError, reason="MALFORMED"):
        ChatTemplate.from_directory(tmp_path)


def test_limits_leave_room_for_long_loops() -> None:
    count = STEPS // 4
    source = PLAIN + f"{{% for a in range({count}) %}}{{% endfor %}}"
    assert template(source).render(talk("S", "U"), add_generation_prompt=False)
