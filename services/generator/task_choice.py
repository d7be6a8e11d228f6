"""Chooses the task from the words of the last message, by rules that a person can read; what no rule knows is chat."""

import re

from services.generator.presets import Task

_CODE = re.compile(
    r"```"
    r"|\b(def|class|import|return|const|function)\b.*[({:;=]"
    r"|\b(python|javascript|typescript|java|rust|golang|c\+\+|sql|bash|regex|html|css|json|yaml|dockerfile)\b"
    r".*\b(code|script|function|class|query|program|method|snippet|loop|error|bug|expression|file|one-liner)\b"
    r"|\b(code|script|function|class|query|program|method|snippet|loop|error|bug|expression|file|one-liner)\b"
    r".*\b(python|javascript|typescript|java|rust|golang|c\+\+|sql|bash|regex|html|css|json|yaml|dockerfile)\b"
    r"|\b(write|fix|debug|refactor|implement|complete)\b.*\b(code|script|function|unit tests?|regex|sql|program)\b"
    r"|\b(traceback|stack trace|segfault|syntaxerror|nullpointerexception|compile error)\b",
    re.IGNORECASE | re.DOTALL,
)
_WORK_OF_WORDS = (
    r"(poem|haiku|limerick|sonnet|verse|rhyme|story|stories|tale|fable|novel|song|lyrics|rap|joke|riddle"
    r"|dialogue|screenplay|monologue|slogan|tagline)s?"
)
_CREATIVE = re.compile(
    rf"\b(write|compose|tell|make up|invent|create|imagine|give|continue|another|a|the)\b[^.?!]*\b{_WORK_OF_WORDS}\b"
    r"|\b(brainstorm|make up|once upon a time|in the style of|role-?play)\b",
    re.IGNORECASE,
)
# What a work says, when or by whom it was written, is asked and not invented.
_ABOUT_A_WORK = re.compile(r"^\W*(who|when|where|which|what year|how many|summari[sz]e)\b", re.IGNORECASE)
_SMALL_TALK = re.compile(
    r"^\W*(hi|hello|hey|good (morning|evening|night)|thanks|thank you|how are you|what'?s up|who are you"
    r"|(do|can|are|would|will|did) you\b(?! (explain|define|tell me (what|who|when|where|why|how))))",
    re.IGNORECASE,
)
_QUESTION = re.compile(
    r"^\W*(who|whom|whose|what|what's|whats|when|where|which|why|how|is|are|was|were|does|do|did|can|could|should|has|have"
    r"|explain|define|describe|calculate|compute|translate|summari[sz]e|list|name|compare|tell me (what|who|about))\b"
    r"|\?\s*$",
    re.IGNORECASE,
)


def choose_task(text: str) -> Task:
    """The task of a message whose sender named none."""
    if _CODE.search(text):
        return Task.CODE
    if _CREATIVE.search(text) and not _ABOUT_A_WORK.search(text):
        return Task.CREATIVE
    if _SMALL_TALK.search(text):
        return Task.CHAT
    return Task.QUESTION_ANSWERING if _QUESTION.search(text) else Task.CHAT
