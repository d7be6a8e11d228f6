"""How users are answered, by task: the generator's table once more, so that what is evaluated offline is what is served.

Training and services never import each other; tests/training/decoding/test_presets.py compares the two.
"""

from __future__ import annotations

from training.decoding.rules import Rules
from training.decoding.tasks import Task

# issue 3, and the generator's presets.
PRESETS = {
    Task.CODE: Rules(temperature=0.1, top_p=0.9),
    Task.QUESTION_ANSWERING: Rules(temperature=0.3, top_p=0.9),
    Task.CHAT: Rules(temperature=0.9, top_p=0.95),
    Task.CREATIVE: Rules(temperature=0.95, top_p=0.98),
}
