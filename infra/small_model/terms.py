"""Terms of use of Gemma: printed at first use and stored with every copy of the model."""

from pathlib import Path

NOTICE_NAME = "NOTICE.txt"
NOTICE = (
    "Gemma is provided under and subject to the Gemma Terms of Use "
    "found at ai.google.dev/gemma/terms\n"
)
_FIRST_USE = """\
the small model is built on Gemma 3 270M by Google, which is not under this project's licence.
    Gemma is provided under and subject to the Gemma Terms of Use found at
    ai.google.dev/gemma/terms (a copy: {copy}), with a Prohibited Use Policy at
    ai.google.dev/gemma/prohibited_use_policy. By using the model you accept these terms. If you
    do not accept them, stop here (Ctrl-C) and choose another model with MODEL=."""


def first_use_notice(copy: Path) -> str:
    """Return the notice shown before the first use of the model."""
    return _FIRST_USE.format(copy=copy)
