"""Which parts of a text are not ours to correct: code, quotes, addresses, paths, identifiers, numbers, markup.

They are read with one pattern from left to right; what is inside a protected part is never looked at.
"""

import re
from dataclasses import dataclass

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
    | [\w.+-]+@[\w-]+(?:\.[\w-]+)*                           # e-mail, user@host
    | (?<!\S)[@#][\w/.-]+ | (?<!\S)--?[A-Za-z][\w-]*(?:=\S+)? # mentions, tags, options
    | (?<!\S)[~.]{0,2}/[^\s]+ | \b[A-Za-z]:\\[^\s]* | \b[\w.-]+(?:/[\w.-]+){2,}/?       # paths
    | \$\{?\w+\}? | %\w+% | \{\{?[^{}\n]*\}?\}               # variables and templates
    | [A-Za-z_]\w*(?:\.\w+)*\([^()\n]*\)                     # calls
    | \b\w*_\w+\b | \b\w+(?:::\w+)+ | \b\w+(?:->\w+)+        # snake_case, A::b, a->b
    | \b[a-z]+(?:[A-Z][a-z0-9]*)+\b | \b(?:[A-Z][a-z0-9]+){2,}\b                        # camelCase
    | \b[A-Za-z][\w-]*(?:\.[A-Za-z][\w-]*)*\.[A-Za-z]\w{0,9}\b                          # file.ext, a.b.c, e.g
    | \b\w*\d[\w.,:/%-]*\w | \d                              # numbers, versions, dates, things with digits
    | [A-Za-z]\+\+ | \b[CFfc]\#                              # C++, C#
    | \b\w+['’]?\w*\s?(?:==|!=|<=|>=|=>|:=|\+=|-=|&&|\|\||=)\s?[^\s]+                   # a = b
    | (?<!\S)[:;=8xX][-o^']?[()\[\]DPpO3/\\|*](?!\w) | <3    # emoticons
    """,
    re.VERBOSE | re.DOTALL,
)
CODE_LINE = re.compile(
    r"""^(?:
      (?:>>>|\.\.\.|\$|\#!)\s.* | \#\s?include\b.* | \s*(?://|/\*|\*/|--\s).*
    | \s*(?:def|class)\s+\w+.*: | \s*(?:from\s+[\w.]+\s+import|import\s+[\w.]+)(?:[\s,].*|;)?
    | \s*(?:public|private|protected|static|const|let|var|func|fn|void|int|float|double|char|struct|enum)\s+[\w<>\[\]*]+.*[;{=(].*
    | \s*(?:if|for|while|elif|else|try|except|finally|with|switch|case)\b.*[:{]\s*
    | .*[;{}]\s* | \s*[\])}]+[;,]?\s* | \s*@\w+.* | \s*return\b.*[;)\]\d]
    | (?:\ {4,}|\t+)\S.*
    | \s*(?i:select|insert|update|delete|create|alter|drop)\s.*\b(?i:from|into|set|table|where|values)\b.*[;*(].*
    | \s*(?:sudo|git|docker|kubectl|npm|pip|apt|apt-get|cd|ls|cat|grep|curl|wget|ssh|make|python3?|node|cargo|go|helm|brew)\s+[\w./-]+(?:\s+--?\w.*)
    | \s*[\w.\[\]"']+\s*(?:[-+*/]?=)\s*\S.* | Traceback\s.* | \s*File\s".* | \s*at\s[\w.$]+\(.*
    | \s*\|.*\|\s* | \s*[-=*_#]{3,}\s* | \s*<[^>]+>.*
    )$""",
    re.VERBOSE | re.MULTILINE,
)


@dataclass(frozen=True)
class Stretch:
    """Characters `start` to `end` (exclusive) that must stay."""

    start: int
    end: int


def protected_stretches(text: str) -> tuple[Stretch, ...]:
    """In order, not overlapping; whole lines of code first, then what is protected within the other lines."""
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
