"""Sentence boundaries, final punctuation marks, capitals and spaces.

Questions are detected by word order: "how do i …" is a question, "how i …" is not. A line with
punctuation is never split.
"""

import re
from collections.abc import Iterator

from services.enhancer.correction.edits import Edit, EditKind
from services.enhancer.correction.known_words import canonical_forms

CANONICAL = canonical_forms()
AUXILIARIES = (
    "do does did is are am was were has have had can could will would shall should may might must "
    "isn't aren't wasn't weren't don't doesn't didn't can't couldn't won't wouldn't shouldn't "
    "hasn't haven't"
)
SUBJECTS = (
    "i you he she it we they this that these those there anyone someone anybody somebody "
    "everyone people u"
)
DETERMINERS = "my your his her its our their the a an any some"


def _any(words: str) -> str:
    return "(?:" + "|".join(re.escape(word) for word in words.split()) + ")"


FILLER = (
    r"(?:(?:hi|hello|hey|hiya|ok|okay|so|well|and|but|also|now|then|please|sorry|excuse "
    r"me|there|btw|yes|no|thanks)\b(?:\s*+,)?\s++){0,3}"
)
AUX, SUBJECT, DETERMINER = _any(AUXILIARIES), _any(SUBJECTS), _any(DETERMINERS)
QUESTION = re.compile(
    rf"{FILLER}(?:"
    rf"(?:what|who|which|whose|whom|where|when|why|how)(?:'s|'re|'d)?\b(?:\s+(?!{SUBJECT}\b)"
    rf"[\w'-]+){{0,4}}?\s+{AUX}\b|"
    rf"(?:what|who|where|when|why|how)'(?:s|re|d)\b|(?:what|how) about\b|how come\b|why "
    rf"not\b|how to\b|"
    rf"(?:who|what|which)\s+(?:\w+\s+)?(?:invented|discovered|wrote|painted|won|made|built|"
    rf"created|founded|causes?|happens?|happened|makes?|means?|comes?)\b|"
    rf"(?:is|are|was|were|does|did|can|could|would|should|has|will|am|isn't|aren't|doesn't|"
    rf"didn't|can't|couldn't|won't|wouldn't|shouldn't)\s+(?!not\b|to\b)[\w'-]+|"
    rf"(?:do|have|had|may|might|shall|don't|haven't)\s+{SUBJECT}\b(?!\s+(?:a|an|the|nice|good|"
    rf"great)\b)"
    rf")",
    re.IGNORECASE,
)
NOT_ASKED = re.compile(
    rf"{FILLER}(?:do (?:it|this|that|these|those)\b|have (?:it|this|that|some|a)\b)", re.IGNORECASE
)
REQUEST = (
    "please help write tell explain give make show create list describe find summarize "
    "summarise translate fix correct "
    "compare suggest recommend generate draft rewrite rephrase improve check solve calculate "
    "teach let use think imagine "
    "act pretend consider define discuss analyze analyse answer convert design develop edit "
    "evaluate plan provide read "
    "review say send sort stop tell thank thanks try turn walk compose add remove change "
    "continue outline prove implement "
    "propose identify extract classify name pick choose ask build keep"
)
VERB = (
    f"{AUXILIARIES} i'm i've i'd i'll it's he's she's that's there's what's you're we're "
    f"they're need want like love hate know think "
    "thinks wants needs likes feel feels get gets got go goes went make makes made take takes "
    "took see saw say says said "
    "works work worked help helps wrote write writes tried try use uses used keep keeps seems "
    "looks look means happens let's"
)
STATEMENT = re.compile(
    rf"{FILLER}(?:{_any(REQUEST)}\b|.*\b{_any(VERB)}\b(?!'))", re.IGNORECASE | re.DOTALL
)

# Patterns of a sentence that starts without a punctuation mark before it. The text before must be a
# complete question or statement.
OPINION = (
    "very so too really quite hard difficult easy confusing not a an the just pretty always "
    "never important urgent fun"
)
STATE = (
    "bored stuck confused lost new tired sad lonely hungry sick a an not very really so just "
    "only still using"
)
ASKED_BEFORE = (
    rf"(?P<asked>^{FILLER}(?:(?:what|who|where|when|why|how|which)\b(?:\s+\w+){{0,2}}?\s+)?{AUX}\s+"
    rf"(?:{SUBJECT}|{DETERMINER}\s+\w+)(?:\s+[\w'+#-]+)+?)"
)
SAID_BEFORE = (
    rf"(?P<said>^{FILLER}(?:{SUBJECT}|my|i'm|i've|it's|the)\s+(?:[\w'+#-]+\s+){{2,}}?[\w'+#-]+)"
)
NEVER_BEFORE = (
    "that because cause if when while whether since although though and but or so as than "
    "then think know believe say feel "
    "reason way time day moment thing place fact case how what why where which who like until "
    "unless before after about "
    "of to for with in on at by from is are was were be being do does did me tell explain "
    "understand see wonder wondering "
    "show learn figure find remember sure guess hope explaining asking ask a an the my your "
    "his her our their not very"
)
RUN_ON = (
    re.compile(
        rf"{ASKED_BEFORE}(?P<gap>\s+)(?P<next>(?:it's|it "
        rf"is|they're|that's)\s+{_any(OPINION)}\b|(?:i'm|i am)\s+{_any(STATE)}\b)",
        re.IGNORECASE,
    ),
    re.compile(
        rf"{ASKED_BEFORE}(?P<gap>\s+)(?P<next>(?:please\s+help(?:\s+me)?|"
        rf"help\s+me(?:\s+please)?|thanks|thank\s+you)\W*$)",
        re.IGNORECASE,
    ),
    re.compile(
        rf"{SAID_BEFORE}(?P<gap>\s+)(?P<next>(?:(?:how|what|where|why)\s+(?:do|can|should|"
        rf"could|is|are|does)\s+(?:{SUBJECT}|the|my)\b|"
        rf"(?:can|could|would|will)\s+you\s+\w+)\b)",
        re.IGNORECASE,
    ),
)
BREAKS_OFF = re.compile(
    rf"\b"
    rf"{_any('is are was were the a an of to and or that because with for if my your its their')}"
    rf"\s*$",
    re.IGNORECASE,
)
MARKS = re.compile(r"[.!?;:,…。！？]")
SENTENCE_START = re.compile(r"(?:(?<=[.!?])|(?<=[.!?][\"'”)]))\s+(?=[a-z])")
NOT_AN_END = re.compile(
    r"(?:\.\.|_|\b[A-Z]|\b(?:[A-Za-z]\.){1,8}[A-Za-z]|\b(?:bros|e\.g|i\.e|etc|vs|mr|mrs|ms|dr|"
    r"prof|st|approx|fig|no|al|cf|inc|ltd|jr|sr|dept|est))\.$",
    re.IGNORECASE,
)
LONGEST_ABBREVIATION = 16
LONE_I = re.compile(
    r"(?<![\w'’.\-/])i(?=(?:['’](?:m|ve|d|ll|s)\b)|(?:[\s,?!;]|\.(?!\w)|$))(?!\s*[=+*/<>\])])"
)
SMALL_WORD = re.compile(r"(?<![\w'’.\-/@#])[a-z]+(?![\w\-/])")


POLITE = r"(?:(?:hi|hello|hey|ok|okay|so|please|sorry)\b(?:\s*+,)?\s++){0,3}"
# Beginnings of questions and requests, and of words about the writer, that do not continue a longer
# sentence ("is specified by", "where it is", "list of files").
ASKING = re.compile(
    rf"{POLITE}(?:(?:what|why|how)(?:'s|'re)?\s|(?:who|when|where)\s+{AUX}\s|"
    rf"{AUX}\s+(?:{SUBJECT}|{DETERMINER})\b|(?!thanks?\b){_any(REQUEST)}\s(?!of\b)|"
    rf"(?:I|I'm|I've|I'd|(?:(?:here|this)\s+is\s+|here's\s+)?my)\s)",
    re.IGNORECASE,
)


def asks(typed: str, corrected: str) -> bool:
    """Return True if a text begins or ends as a message to an assistant does."""
    return typed.rstrip().endswith("?") or bool(ASKING.match(corrected.lstrip()))


def question_or_statement(sentence: str) -> str:
    """Return the missing final mark of a sentence: "?", ".", or "" if unsure or incomplete."""
    if BREAKS_OFF.search(sentence):
        return ""
    if QUESTION.match(sentence) and not NOT_ASKED.match(sentence):
        return "?"
    return "." if STATEMENT.match(sentence) else ""


def run_on_edit(line: str) -> Edit | None:
    """Return the edit that separates two sentences of a line without punctuation, or None."""
    if MARKS.search(line):
        return None
    for pattern in RUN_ON:
        found = pattern.search(line)
        if not found:
            continue
        first = found["asked"] if "asked" in pattern.groupindex else found["said"]
        words = first.split()
        if len(words) >= 3 and words[-1].lower() not in NEVER_BEFORE.split():
            mark = question_or_statement(first) or "."
            gap_start, next_start = found.span("gap")
            start = line[next_start]
            return Edit(gap_start, next_start + 1, f"{mark} {start.upper()}", EditKind.PUNCTUATION)
    return None


def capital_edits(line: str, *, from_start: bool) -> Iterator[Edit]:
    """Yield capitals for sentence starts, "I" and names.

    `from_start` is true if the line begins a sentence.
    """
    first = re.match(r"\W*([a-z])(?=[a-z'’]*(?:\s|[,.!?;:]|$))", line)
    if from_start and first and len(line.split()) > 1:
        yield _capital(line, first.start(1))
    for found in SENTENCE_START.finditer(line):
        end = found.start()
        if not NOT_AN_END.search(line, max(0, end - LONGEST_ABBREVIATION), end):
            yield _capital(line, found.end())
    for found in LONE_I.finditer(line):
        yield Edit(found.start(), found.start() + 1, "I", EditKind.CAPITAL)
    for found in SMALL_WORD.finditer(line):
        if (written := CANONICAL.get(found[0])) and written != found[0]:
            yield Edit(found.start(), found.end(), written, EditKind.CAPITAL)


def _capital(line: str, index: int) -> Edit:
    return Edit(index, index + 1, line[index].upper(), EditKind.CAPITAL)


DOUBLED = re.compile(r"(?<=[^\s.!?:|]) {2,}(?=[^\s|])")
BEFORE_MARK = re.compile(r"(?<=\w) +(?=[,;?!](?:\s|$)|[?!]{2,}|\.(?:\s|$))")
AFTER_MARK = re.compile(r"(?<=[a-z][,;?!])(?=[a-z])")


def spacing_edits(line: str) -> Iterator[Edit]:
    """Yield the edits of one line in no particular order."""
    if "|" in line or "\t" in line:
        return
    for found in DOUBLED.finditer(line):
        yield Edit(*found.span(), " ", EditKind.SPACING)
    for found in BEFORE_MARK.finditer(line):
        yield Edit(*found.span(), "", EditKind.SPACING)
    for found in AFTER_MARK.finditer(line):
        yield Edit(*found.span(), " ", EditKind.SPACING)
