"""Which parts of a text are not ours to correct: code, quotes, addresses, paths, identifiers, numbers, markup.

They are read with one pattern from left to right; what is inside a protected part is never looked at.
"""

import re
from dataclasses import dataclass
from functools import lru_cache

PROTECTED = re.compile(
    r"""
      ```.*?(?:```|\Z)                                       # fenced code, also one that is not closed
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
    | \b[A-Za-z][\w-]{0,40}(?:\.[A-Za-z][\w-]{0,40}){0,8}\.[A-Za-z]\w{0,9}\b                          # file.ext, a.b.c, e.g
    | \b\w*\d(?:[\w.,:/%-]*\w)?                               # numbers, versions, dates, things with digits
    | [A-Za-z]\+\+ | \b[CFfc]\#                              # C++, C#
    | \b\w+['’]?\w*\s?(?:==|!=|<=|>=|=>|:=|\+=|-=|&&|\|\||=)\s?[^\s]+                   # a = b
    | (?<!\S)[:;=8xX][-o^']?[()\[\]DPpO3/\\|*](?!\w) | <3    # emoticons
    """,
    re.VERBOSE | re.DOTALL,
)
CODE_LINE = re.compile(
    r"""^(?:
      (?:>>>|\.\.\.|\$|\#!)\s.* | \#\s?include\b.* | [ \t]*(?://|/\*|\*/|--\s).*
    | [ \t]*(?:def|class)\s+\w+.*: | [ \t]*(?:from\s+[\w.]+\s+import|import\s+[\w.]+)(?:[\s,].*|;)?
    | [ \t]*(?:public|private|protected|static|const|let|var|func|fn|void|int|float|double|char|struct|enum)\s+[\w<>\[\]*]+.*[;{=(].*
    | [ \t]*(?:if|for|while|elif|else|try|except|finally|with|switch|case)\b.*[:{]\ *
    | .*[;{}]\ * | [ \t]*[\])}]+[;,]?\s* | [ \t]*@\w+.* | [ \t]*return\b.*[;)\]\d]
    | (?:\ {4,}|\t+)\S.*
    | [ \t]*(?i:select|insert|update|delete|create|alter|drop)\s.*\b(?i:from|into|set|table|where|values)\b.*[;*(].*
    | [ \t]*(?:sudo|git|docker|kubectl|helm|npm|pip|apt|apt-get|brew|cd|ls|cat|grep|curl|wget|ssh|make
      |python3?|node|cargo|go)\s+[\w./-]+(?:\s+--?\w.*)
    | [ \t]*[\w.\[\]"']+\s*(?:[-+*/]?=)\s*\S.* | Traceback\s.* | [ \t]*File\s".* | [ \t]*at\s[\w.$]+\(.*
    | [ \t]*\|.*\|[ \t]* | [ \t]*[-=*_#]{3,}\s* | [ \t]*<[^>]+>.*
    )$""",
    re.VERBOSE | re.MULTILINE,
)

# Plain words and marks: nothing to protect, which most prompts are, found out in a twentieth of the time.
ORDINARY = re.compile(
    r"(?:(?:[a-z]+|[A-Z][a-z]*|[A-Z]+)(?:['’][a-z]+)?(?:[.!?](?=\s|$)|[,?!])*(?: (?=[A-Za-z])|$|\s*$))*"
)
COMMAND = re.compile(r"(?:import|from|return)\s")


@dataclass(frozen=True)
class Stretch:
    """Characters `start` to `end` (exclusive) that must stay."""

    start: int
    end: int


@lru_cache(maxsize=16)
def protected_stretches(text: str) -> tuple[Stretch, ...]:
    """In order, not overlapping; whole lines of code first, then what is protected within the other lines."""
    if ORDINARY.fullmatch(text) and not COMMAND.match(text):
        return ()
    found = [Stretch(*match.span()) for match in CODE_LINE.finditer(text) if match.end() > match.start()]
    found += [Stretch(*match.span()) for match in PROTECTED.finditer(text)]
    merged: list[Stretch] = []
    for stretch in sorted(found, key=lambda stretch: (stretch.start, -stretch.end)):
        if merged and stretch.start < merged[-1].end:
            merged[-1] = Stretch(merged[-1].start, max(merged[-1].end, stretch.end))
        else:
            merged.append(stretch)
    return tuple(merged)


def masked(text: str, stretches: tuple[Stretch, ...], mask: str) -> str:
    """The text with every protected character replaced by `mask`; places stay."""
    parts, place = [], 0
    for stretch in stretches:
        parts += [text[place : stretch.start], mask * (stretch.end - stretch.start)]
        place = stretch.end
    return "".join([*parts, text[place:]])


def is_code(text: str, stretches: tuple[Stretch, ...]) -> bool:
    """Whether there is nothing to correct beside code: no line holds two words outside what is protected."""
    if not stretches:
        return False
    return not re.search(r"[^\W\d_]{2,}\W+[^\W\d_]{2,}", masked(text, stretches, "\n"))
