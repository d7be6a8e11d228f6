"""Tasks with their own sampling presets (models/presets.json), and the maximum answer length."""

from __future__ import annotations

from enum import StrEnum

MAX_TOKENS = 4096  # the same limit as in services/contracts/limits.py
DEFAULT_MAX_TOKENS = 256


class Task(StrEnum):
    """Kind of the requested answer."""

    CODE = "code"
    QUESTION_ANSWERING = "question_answering"
    CHAT = "chat"
    CREATIVE = "creative"
