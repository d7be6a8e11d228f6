"""What is asked of a model, and the most that it may answer; models/presets.json says how each is sampled."""

from __future__ import annotations

from enum import StrEnum

MAX_TOKENS = 4096  # as services/generator/presets.py


class Task(StrEnum):
    """What kind of answer is wanted."""

    CODE = "code"
    QUESTION_ANSWERING = "question_answering"
    CHAT = "chat"
    CREATIVE = "creative"
