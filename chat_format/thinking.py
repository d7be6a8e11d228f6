"""Thinking of hybrid models: their chat templates switch it by the variable `enable_thinking`.

Qwen 3 and its successors think unless the variable is false. Thoughts are part of the answer, so
users see them, and they use the tokens that an answer may have.
"""

VARIABLE = "enable_thinking"
OFF = f"{{%- set {VARIABLE} = false %}}"
START = "<think>"


def can_switch(template: str) -> bool:
    """Return True if a chat template reads the variable."""
    return VARIABLE in template


def with_thinking(template: str, on: bool) -> str:
    """Return a chat template with thinking as its publisher has it (on), or switched off.

    The assignment stands in the template, so that model servers and trainers render equal prompts
    without a setting of their own. A template that does not read the variable is unchanged.
    """
    published = template.removeprefix(OFF)
    return OFF + published if can_switch(published) and not on else published
