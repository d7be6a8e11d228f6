"""Kinds of requests to a model, and the longest answer; models/presets.json holds the sampling of
each.
"""

from __future__ import annotations

from enum import StrEnum

MAX_TOKENS = 4096  # as services/generator/presets.py


class Task(StrEnum):
    """What kind of answer is wanted."""

    CODE = "code"
    QUESTION_ANSWERING = "question_answering"
    CHAT = "chat"
    CREATIVE = "creative"
