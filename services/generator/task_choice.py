"""Chooses the task from the words of the last message, by rules that a person can read; what no
rule knows is chat.

The rules see the beginning of the message alone: it says what is wanted, and a long text must not
cost the loop its time.
"""

import re

from services.generator.presets import Task

BEGINNING_CHARACTERS = 500

_LANGUAGE = r"(python|javascript|typescript|java|rust|golang|c\+\+|c#|sql|bash|shell|html|css|regex|yaml|dockerfile)"
_PIECE_OF_CODE = r"(code|script|function|class|query|method|snippet|loop|error|exception|bug|one-liner|decorator|program|test)s?"
_CODE = re.compile(
    rf"\b{_LANGUAGE}\b.*\b{_PIECE_OF_CODE}\b|\b{_PIECE_OF_CODE}\b.*\b{_LANGUAGE}\b"
    r"|\b(write|fix|debug|refactor|implement|complete|optimi[sz]e)\b.*"
    r"\b(code|function|unit tests?|regex|sql|algorithm|program (that|to|which))\b"
    r"|\b(traceback|stack trace|segfault|segmentation fault|syntaxerror|typeerror|nullpointerexception)\b"
    r"|^\s*(def \w+\(|class \w+[(:{]|import [\w.]+\s*(;|$|as )|from [\w.]+ import |(const|let|var) \w+ ?="
    r"|function \w*\(|#include\b|select\b.+\bfrom\b)",
    re.IGNORECASE | re.DOTALL | re.MULTILINE,
)
_WORK_OF_WORDS = (
    r"(poem|haiku|limerick|sonnet|verse|rhyme|story|stories|tale|fable|novel|song|lyric|rap|joke|riddle"
    r"|dialogue|screenplay|monologue|slogan|tagline)s?"
)
_CREATIVE = re.compile(
    r"\b(write|compose|tell|make|make up|invent|create|imagine|give|continue|sing|draft|turn)\b"
    rf"[^.?!]*\b{_WORK_OF_WORDS}\b"
    rf"|^\W*(please,? )?(a|an|another|one more|the next)\b[^.?!]*\b{_WORK_OF_WORDS}\b"
    r"|\b(brainstorm|once upon a time|in the style of|role-?play)\b",
    re.IGNORECASE,
)
# What a work says, who wrote it and how to write one is asked and not invented.
_ABOUT_A_WORK = re.compile(
    r"^\W*(who|when|where|which|what|why|how|summari[sz]e|explain|describe|tell me (who|when|where|what|about))\b"
    r"|\b(summary|analysis|meaning|author) of\b",
    re.IGNORECASE,
)
_SMALL_TALK = re.compile(
    r"^\W*(hi|hello|hey|good (morning|evening|night)|thanks|thank you|how are you|what'?s up|who are you"
    r"|(do|can|are|would|will|did) you\b(?! (explain|define|list|name|calculate|tell me (what|who|when|where|why|how))))",
    re.IGNORECASE,
)
_QUESTION = re.compile(
    r"^\W*(who|whom|whose|what|what'?s|when|where|which|why|how|is|are|was|were|does|do|did|can|could|should|has|have"
    r"|explain|define|describe|calculate|compute|translate|summari[sz]e|list|name|compare|tell me (what|who|about))\b"
    r"|\?\s*$",
    re.IGNORECASE,
)


def choose_task(text: str) -> Task:
    """The task of a message whose sender named none."""
    beginning = text[:BEGINNING_CHARACTERS]
    if "```" in text or _CODE.search(beginning):
        return Task.CODE
    if _CREATIVE.search(beginning):
        return Task.QUESTION_ANSWERING if _ABOUT_A_WORK.search(beginning) else Task.CREATIVE
    if _SMALL_TALK.search(beginning):
        return Task.CHAT
    return Task.QUESTION_ANSWERING if _QUESTION.search(beginning) else Task.CHAT
