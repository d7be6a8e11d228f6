"""Figures of style, in both directions."""

import pytest

from training.probes.style import style_of


@pytest.mark.parametrize(
    ("figure", "having", "lacking"),
    [
        (
            "lists",
            ["- one\n- two", "Steps:\n1. Boil it.\n2. Eat it.", "* a\n* b", "• one"],
            ["7 - 3 is 4.", "1.5 litres", "It is - in short - good.", "**bold** word"],
        ),
        (
            "headings",
            ["# Title\ntext", "### Third", "**Ingredients:**\nflour"],
            ["Issue #3 is open.", "The **bold** word.", "```\n# a comment\n```"],
        ),
        ("emoji", ["Great 🎉", "✨ Hi", "🇫🇷"], ["Great :-)", "5 € → 6 €", "7 × 8 = 56"]),
        (
            "hedging",
            ["Maybe it is.", "I think so.", "It might rain.", "I'm not sure."],
            ["It rains in May.", "The mighty lion.", "Thinking is work."],
        ),
        ("exclamation", ["Hello!", "Great! It is 4."], ["a != b", "Hello.", "`x!`"]),
        (
            "self_praise",
            ["As an expert, I know it.", "I'm very good at this.", "Here is my perfect answer."],
            ["You are very good at this.", "The expert said so.", "Here is the answer."],
        ),
        (
            "questions",
            ["It is 4. Anything else?", "What do you need?", 'You said "why?"'],
            ["Why? Because it rains.", "It is 4."],
        ),
    ],
)
def test_figure_is_one_or_zero(figure: str, having: list[str], lacking: list[str]) -> None:
    assert [text for text in having if style_of(text)[figure] != 1.0] == []
    assert [text for text in lacking if style_of(text)[figure] != 0.0] == []


def test_words_are_counted_outside_code() -> None:
    assert style_of("Use `ls -l` for a list.\n```\nls -l /tmp\n```")["words"] == 4
    assert style_of("")["words"] == 0
