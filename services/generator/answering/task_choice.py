"""Choice of the task from the words of the last message, by readable rules.

A message that matches no rule is chat. The rules read only the beginning of the message, which
contains the request; a long text must not block the event loop.
"""

import re

from services.contracts.chat import Task

BEGINNING_CHARACTERS = 500

_LANGUAGE = (
    r"(python|javascript|typescript|java|rust|golang|c\+\+|c#|sql|bash|shell|html|css|regex|yaml"
    r"|dockerfile)"
)
_CODE_NOUN = (
    r"(code|script|function|class|query|method|snippet|loop|error|exception|bug|one-liner|decorator"
    r"|program|test)s?"
)
# The alternatives with two words start at the beginning of the text and go on from the first match
# of one word only. A search from every position would take quadratic time.
_CODE = re.compile(
    rf"\A(?=.*\b{_LANGUAGE}\b).*\b{_CODE_NOUN}\b"
    r"|\A(?>.*?\b(write|fix|debug|refactor|implement|complete|optimi[sz]e)\b).*"
    r"\b(code|function|unit tests?|regex|sql|algorithm|program (that|to|which))\b"
    r"|\b(traceback|stack trace|segfault|segmentation fault|syntaxerror|typeerror"
    r"|nullpointerexception)\b"
    r"|^[^\S\n]*(def \w+\(|class \w+[(:{]|import [\w.]+\s*(;|$|as )|from [\w.]+ import "
    r"|(const|let|var) \w+ ?="
    r"|function \w*\(|#include\b)"
    r"|\A(?>.*?^[^\S\n]*select\b).+\bfrom\b",
    re.IGNORECASE | re.DOTALL | re.MULTILINE,
)
_CREATIVE_WORK = (
    r"(poem|haiku|limerick|sonnet|verse|rhyme|story|stories|tale|fable|novel|song|lyric|rap|joke"
    r"|riddle|dialogue|screenplay|monologue|slogan|tagline)s?"
)
_CREATIVE = re.compile(
    r"(?:\A|[.?!])(?>[^.?!]*?\b"
    r"(write|compose|tell|make|invent|create|imagine|give|continue|sing|draft|turn)\b)"
    rf"[^.?!]*\b{_CREATIVE_WORK}\b"
    rf"|^\W*(please,? )?(a|an|another|one more|the next)\b[^.?!]*\b{_CREATIVE_WORK}\b"
    r"|\b(brainstorm|once upon a time|in the style of|role-?play)\b",
    re.IGNORECASE,
)
# Questions about a work (its content, its author, how to write one) are answered, not invented.
_ABOUT_A_WORK = re.compile(
    r"^\W*(who|when|where|which|what|why|how|summari[sz]e|explain|describe"
    r"|tell me (who|when|where|what|about))\b"
    r"|\b(summary|analysis|meaning|author) of\b",
    re.IGNORECASE,
)
_SMALL_TALK = re.compile(
    r"^\W*(hi|hello|hey|good (morning|evening|night)|thanks|thank you|how are you|what'?s up"
    r"|who are you|(do|can|are|would|will|did) you\b(?! (explain|define|list|name|calculate"
    r"|tell me (what|who|when|where|why|how))))",
    re.IGNORECASE,
)
_QUESTION = re.compile(
    r"^\W*(who|whom|whose|what|what'?s|when|where|which|why|how|is|are|was|were|does|do|did|can"
    r"|could|should|has|have|explain|define|describe|calculate|compute|translate|summari[sz]e|list"
    r"|name|compare|tell me (what|who|about))\b"
    r"|\?\s*$",
    re.IGNORECASE,
)


def choose_task(text: str) -> Task:
    """Return the task of a message without an explicit task."""
    beginning = text[:BEGINNING_CHARACTERS]
    if "```" in text or _CODE.search(beginning):
        return Task.CODE
    if _CREATIVE.search(beginning):
        return Task.QUESTION_ANSWERING if _ABOUT_A_WORK.search(beginning) else Task.CREATIVE
    if _SMALL_TALK.search(beginning):
        return Task.CHAT
    return Task.QUESTION_ANSWERING if _QUESTION.search(beginning) else Task.CHAT
