"""Protected parts of a text, which are never corrected.

Protected are code lines, technical terms, quotes, addresses, paths, identifiers, numbers and
markup. All correction steps see a text with masked protected parts.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from services.enhancer.correction.code_lines import (
    WORDS,
    begins_code,
    code_lines,
    commands,
    is_code_line,
)

PROTECTED = re.compile(
    r"""
      ```.*?(?:```|\Z)  # fenced code, also one that is not closed
    | ~~~.*?(?:~~~|\Z)
    | `[^`\n]+`                                              # inline code
    | \$\$.+?\$\$ | \\\[.+?\\\] | \\\(.+?\\\)                # formulas
    | "[^"\n]*" | “[^”\n]*” | «[^»\n]*» | „[^“”\n]*[“”] | ‘[^’\n]*’
    | (?<!\w)'[^'\n]+'(?!\w)                                 # quotes
    | <[A-Za-z/!][^<>\n]*>                                   # markup
    | \b(?:https?|ftp|file|ssh|git|wss?|mailto):[^\s]+ | \bwww\.[^\s]+
    | [\w.+-]{1,64}@[\w-]{1,64}(?:\.[\w-]+)*                          # e-mail, user@host
    | (?<!\S)[@#][\w/.-]+ | (?<!\S)--?[A-Za-z][\w-]*(?:=\S+)? # mentions, tags, options
    | (?<!\S)[~.]{0,2}/[^\s]+ | \b[A-Za-z]:\\[^\s]* | \b[\w.-]{1,64}(?:/[\w.-]+){2,}/?       # paths
    | \$\{?\w+\}? | %\w+% | \{\{?[^{}\n]*\}?\}               # variables and templates
    | [A-Za-z_]\w*(?:\.\w+)*\([^()\n]*\)                     # calls
    | \b\w*_\w+\b | \b\w+(?:::\w+)+ | \b\w+(?:->\w+)+        # snake_case, A::b, a->b
    | \b[a-z]+(?:[A-Z][a-z0-9]*)+\b | \b(?:[A-Z][a-z0-9]+){2,}\b                        # camelCase
    | \b[A-Za-z][\w-]{0,40}(?:\.[A-Za-z][\w-]{0,40}){0,8}\.[A-Za-z]\w{0,9}\b  # file.ext, a.b.c, e.g
    | \b\w*\d(?:[\w.,:/%-]*\w)?  # numbers, versions, dates, things with digits
    | [A-Za-z]\+\+ | \b[CFfc]\#                              # C++, C#
    | \b\w+['’]?\w*\s?(?:==|!=|<=|>=|=>|:=|\+=|-=|&&|\|\||=)\s?[^\s]+                   # a = b
    | (?<!\S)[:;=8xX][-o^']?[()\[\]DPpO3/\\|*](?!\w) | <3    # emoticons
    """,
    re.VERBOSE | re.DOTALL,
)
# Texts of plain words and punctuation, as most prompts are, have no protected parts. This check
# takes a twentieth of the time of the full search.
ORDINARY = re.compile(
    r"(?:(?:[a-z]+|[A-Z][a-z]*|[A-Z]+)(?:['’][a-z]+)?(?:[.!?](?=\s|$)|[,?!])*(?: "
    r"(?=[A-Za-z])|$|\s*$))*"
)
TERM = re.compile(r"(?<![\w'’])[A-Za-z]\w+(?![\w])")
COMMAND = re.compile(r"(?<![\w-])[a-z][\w+-]*")
OPENING = re.compile(r"[a-z]+ [a-z]+\b")
# Options and arguments of a command within a sentence, up to the next word of the sentence.
ARGUMENT = (
    r"[ \t]+(?!(?:and|or|in|on|do|does|is|to|the|from|for|with|but|so|work|mean|if|when|as|"
    r"at|a|it|not|i)\b)"
)
OPTIONS = re.compile(
    rf"(?:{ARGUMENT}[\w./~-]+){{0,2}}?(?:[ \t]+--?[A-Za-z][\w-]*(?:=\S+)?)+(?:{ARGUMENT}[^\s,"
    rf"?!]+){{0,3}}"
)


@lru_cache(maxsize=1)
def technical_terms() -> frozenset[str]:
    """Return acronyms, protocols, tools, libraries and commands in lower case.

    None of them is an ordinary English word.
    """
    return frozenset((WORDS / "technical.txt").read_text().split()) | commands()[0]


@lru_cache(maxsize=1)
def _terms_and_plurals() -> frozenset[str]:
    terms = technical_terms()
    return terms | {f"{term}s" for term in terms}


@dataclass(frozen=True)
class ProtectedSpan:
    """Protected characters `start` to `end` (exclusive).

    `term` marks a technical term, which counts as a word of its sentence.
    """

    start: int
    end: int
    term: bool = False


@lru_cache(maxsize=16)
def protected_spans(text: str) -> tuple[ProtectedSpan, ...]:
    """Return the protected spans of a text in order, without overlaps."""
    terms = list(_terms(text))
    if ORDINARY.fullmatch(text):
        return (
            (ProtectedSpan(0, len(text)),)
            if begins_code(text) and is_code_line(text)
            else tuple(terms)
        )
    found = [ProtectedSpan(*bounds) for bounds in code_lines(text)]
    found += [ProtectedSpan(*match.span()) for match in PROTECTED.finditer(text)]
    if " -" in text:
        found += _commands_with_options(text)
    merged: list[ProtectedSpan] = []
    for span in sorted(found + terms, key=lambda span: (span.start, -span.end)):
        if merged and span.start < merged[-1].end:
            merged[-1] = ProtectedSpan(merged[-1].start, max(merged[-1].end, span.end))
        else:
            merged.append(span)
    return tuple(merged)


def _terms(text: str) -> Iterator[ProtectedSpan]:
    known = _terms_and_plurals()
    # "make install fails": English words, but no sentence begins with this pair.
    opening = OPENING.match(text)
    if opening and opening[0] in commands()[1]:
        yield ProtectedSpan(*opening.span(), term=True)
    if known.isdisjoint(TERM.findall(text.lower())):
        return
    for match in TERM.finditer(text):
        if match[0].lower() in known:
            yield ProtectedSpan(*match.span(), term=True)


def _commands_with_options(text: str) -> Iterator[ProtectedSpan]:
    only_commands, also_words = commands()
    for match in COMMAND.finditer(text):
        if match[0] in only_commands or match[0] in also_words:
            options = OPTIONS.match(text, match.end())
            if options:
                yield ProtectedSpan(match.start(), options.end())


def masked(text: str, spans: Sequence[ProtectedSpan], mask: str) -> str:
    """Replace every protected character by `mask`, so that positions do not change."""
    parts, position = [], 0
    for span in spans:
        parts += [text[position : span.start], mask * (span.end - span.start)]
        position = span.end
    return "".join([*parts, text[position:]])


def is_code(text: str, spans: Sequence[ProtectedSpan]) -> bool:
    """Return True if no line has two adjacent words outside code; technical terms are words."""
    other = [span for span in spans if not span.term]
    if not other:
        return False
    return not re.search(r"[^\W\d_]{2,}\W+[^\W\d_]{2,}", masked(text, other, "\n"))
