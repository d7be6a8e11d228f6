"""Protected parts of a text, which are never corrected.

Protected are code lines, technical terms, quotes, addresses, paths, identifiers, numbers and
markup. All correction steps see a text with masked protected parts.

Code lines are statements, shell commands, data, diffs, stack traces and logs. A line is code if its
form never occurs in sentences, or if it has code marks and no word of a sentence. Blocks of code
are pasted and not corrected at all (`typed_parts`).
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

WORDS = Path(__file__).parent / "words"

PROTECTED = re.compile(
    r"""
      ```.*?(?:```|\Z)  # fenced code, also one that is not closed
    | ~~~.*?(?:~~~|\Z)
    | `[^`\n]+`                                              # inline code
    | \$\$.+?\$\$ | \\\[(?>(?!\\[\[\]]).)*+\\\] | \\\((?>(?!\\[()]).)*+\\\)  # formulas
    | "[^"\n]*" | “[^“”\n]*” | «[^«»\n]*» | „[^„“”\n]*[“”] | ‘[^‘’\n]*’
    | (?<!\w)'[^'\n]+'(?!\w)                                 # quotes
    | <[A-Za-z/!][^<>\n]*>                                   # markup
    | \b(?:https?|ftp|file|ssh|git|wss?|mailto):[^\s]+ | \bwww\.[^\s]+
    | [\w.+-]{1,64}@[\w-]{1,64}(?:\.[\w-]+)*                          # e-mail, user@host
    | (?<!\S)[@#][\w/.-]+ | (?<!\S)--?[A-Za-z][\w-]*(?:=\S+)? # mentions, tags, options
    | (?<!\S)[~.]{0,2}/[^\s]+ | \b[A-Za-z]:\\[^\s]* | \b[\w.-]{1,64}(?:/[\w.-]+){2,}/?       # paths
    | \$\{?\w+\}? | %\w+% | \{\{?[^{}\n]*\}?\}               # variables and templates
    | (?<![\w.])\.?[A-Za-z_]\w*(?:\.\w+)*\([^()\n]*\)        # calls
    | \b\w*_\w+\b | \b\w+(?:::\w+)+ | \b\w+(?:->\w+)+        # snake_case, A::b, a->b
    | \b[a-z]+(?:[A-Z][a-z0-9]*)+\b | \b(?:[A-Z][a-z0-9]+){2,}\b                        # camelCase
    | \b[A-Za-z][\w-]{0,40}(?:\.[A-Za-z][\w-]{0,40}){0,8}\.[A-Za-z]\w{0,9}\b  # file.ext, a.b.c, e.g
    | \b\w*\d(?:[\w.,:/%-]*\w)?  # numbers, versions, dates, things with digits
    | [A-Za-z]\+\+ | \b[CFfc]\#                              # C++, C#
    | \b\w+(?:['’]\w*)?\s?(?:==|!=|<=|>=|=>|:=|\+=|-=|&&|\|\||=)\s?[^\s]+                   # a = b
    | (?<!\S)[:;=8xX][-o^']?[()\[\]DPpO3/\\|*](?!\w) | <3    # emoticons
    """,
    re.VERBOSE | re.DOTALL,
)
# Texts of plain words and punctuation, as most prompts are, have no protected parts. This check
# takes a twentieth of the time of the full search.
ORDINARY = re.compile(
    r"(?:(?>[a-z]+|[A-Z]{2,}(?![a-z])|[A-Z][a-z]*)(?:['’][a-z]+)?(?:\.(?=\s|$)|[,?!])*+(?: "
    r"(?=[A-Za-z])|\s*$))*+"
)
TWO_WORDS = re.compile(r"[^\W\d_]{2}\W++[^\W\d_]{2}")
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
        only_commands, also_words = commands()
        for match in COMMAND.finditer(text):
            if match[0] in only_commands or match[0] in also_words:
                options = OPTIONS.match(text, match.end())
                if options:
                    found.append(ProtectedSpan(match.start(), options.end()))
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
    return not TWO_WORDS.search(masked(text, other, "\n"))


# Forms that never occur in sentences.
STATEMENT = re.compile(
    r"""(?:
      (?:>>>|\.\.\.|\$|\#!)\s.* | \#!.* | \#\s?(?:include|define|ifn?def|endif|pragma)\b.*
    | \s*(?://|/\*|\*/|--\s).*
    | \s*(?:(?:async\s+)?def|class)\s+\w++(?:\(.*|.*:.*) | .*\s\\
    | \s*(?:from\s+[\w.]+\s+import|import\s+[\w.]+)(?:[\s,].*|;)?
    | \s*(?:public|private|protected|static|const|let|var|func|fn|void|int|float|double|char
        |struct|enum)\s+[\w<>\[\]*]++.*[;{=(].*
    | .*[;{}]\ * | \s*[\])}]+[;,]?\s* | \s*@\w+.* | \s*return\b.*[;)\]\d]
    | (?:\ {4,}|\t+)\S.*
    | \s*(?i:select|insert|update|delete|create|alter|drop)\s(?>.*?\b(?i:from|into|set|table|where
        |values)\b).*[;*(].*
    | \s*[\w.\[\]"']+(?:,\s*[\w.\[\]"']+)*\s*(?:[-+*/]?=)\s*\S.* | \s*"[^"\n]*"\s*:\s*\S.*
    | \s*\|.*\|\s* | \s*[-=*_#]{3,}\s* | \s*<[^>]+>.*
    )""",
    re.VERBOSE,
)
# Output of programs: stack traces, compiler messages, logs.
PROGRAM_OUTPUT = re.compile(
    r"""\s*(?:
      Traceback\s.* | File\s".* | at\s[\w.$<>]+\(.* | (?:Caused\s+by|Exception\s+in\s+thread)\b.*
    | (?:[a-z]\w*\.)*[A-Z]\w*(?:Error|Exception|Warning)(?::\s.*|:?) | goroutine\s\d+\s\[.*
    | Segmentation\s+fault\b.*
    | (?:error|fatal|panic|warning)(?:\[\w+\])?:\s(?!(?:how|what|why|where|when|who|can|could|do
        |does|is|please)\b).*
    | [\w./\\-]+\.\w+:\d+(?::\d+)?:?\s.*
    | \[?\d{4}-\d\d-\d\d[T\ ]\d\d:\d\d.* | [A-Z][a-z]{2}\s+\d{1,2}\s\d\d:\d\d:\d\d\s.*
    | \[?\d\d:\d\d:\d\d\b.*
    | [IWEF]\d{4}\s\d\d:\d\d:\d\d.* | \d{1,3}(?:\.\d{1,3}){3}\s-\s.* | \w+\s(?:ERR!|WARN)\s.*
    | \[?(?:TRACE|DEBUG|INFO|NOTICE|WARN|WARNING|ERROR|FATAL|CRITICAL)(?:\]|:).*
    | \[(?:trace|debug|info|notice|warn|error)\].*
    )""",
    re.VERBOSE,
)
# Forms that are code only in a line without words of a sentence.
MARK = re.compile(
    r"""
      [\w)\]]\s*(?:===?|!==?|<=|>=|[-+*/%|&]=|:=|&&|\|\||=>|->|<<|>>|::)\s*\S
    | [\w)\]]\s+[+*/%<>=|]\s+[\w("'$-]
    | \b\w+\([^()]*\) | ;\s*(?:then|do)\b | \s\*\w+\b(?!\*) | [\w)]\[\[?[^\[\]]*\]
    """,
    re.VERBOSE,
)
KEYWORD = re.compile(
    r"""\s*(?:
      (?:assert|await|break|continue|del|delete|new|package|print|raise|return|throw|var
      |yield)\s+[\w.()\[\]"'-]+
    | (?:if|for|while|elif|else|try|except|finally|with|switch|case)\b.*[:{]\s* | elif\b.*
    | export\s+(?:default|const|function|class)\b.* | lambda\b.*:.* | typedef\s.* | struct\s+\w+.*
    | (?i:select)\b.*(?i:\bfrom\b).* | (?i:(?:order|group)\s+by|insert\s+into|delete\s+from
        |(?:create|drop|alter|truncate)\s+table)\b.*
    | (?:SELECT|FROM|WHERE|HAVING|LIMIT|VALUES|UNION|SET|UPDATE
        |(?:(?:LEFT|RIGHT|INNER|OUTER|FULL|CROSS)\s+)*JOIN)\b.*
    )""",
    re.VERBOSE,
)
# First words of the forms above that also occur in lines of plain words.
FIRST_WORDS = frozenset(
    "import from return assert await break continue del delete new package print raise throw "
    "var yield export typedef struct elif "
    "lambda select order group insert create drop alter truncate where having limit values "
    "union set update left right "
    "inner outer full cross join sudo time exec nohup segmentation exception caused".split()
)
QUOTED = re.compile(r"\"[^\"]*\"|'[^']*'|`[^`]*`")
COMMENT = re.compile(r"\s(?:#|//|--)\s.*$")
# Words of sentences, except for those that programs use too (if, for, in, from, and, or, not,
# while, i, do).
SENTENCE_WORD = re.compile(
    r"(?<![\w.$/-])(?:the|an|my|your|his|her|our|their|this|that|these|those|you|he|she|we|"
    r"they|me|him|us|them|are|was|were|be|been|"
    r"how|what|whats|why|who|can|could|would|should|will|does|doesnt|have|has|had|to|of|very|"
    r"such|because|about|than|please|pls|plz|solve|explain|calculate|simplify|prove|tell|give|"
    r"there|u|ur|"
    r"it(?!\()|is(?!\s+(?:not\s+)?(?:None|null|True|False)\b)|a(?=\s+(?!(?:and|or|if|in|is|"
    r"else)\b)[a-z]{2})|\w+'(?:s|t|m|re|ve|ll|d))(?![\w(/=\[]|\.\w)",
    re.IGNORECASE,
)
FLAG_OR_PATH = re.compile(
    r"(?<!\S)--?[A-Za-z]|[|<>$*]|(?<!\S)[.~]?/\S|\S/\S|(?<!\S)\.(?!\S)|\w\.[A-Za-z]\w*|\w=\w"
)
# Words that turn a line with a command into a request ("git tutorial for beginners").
REQUESTED = re.compile(r"\s(?:vs|versus|or|and|for|with|not|between)\b|\?\s*$", re.IGNORECASE)
ONE_VALUE = re.compile(r"\s*[a-z_]\w*:\s+\S+\s*")


@lru_cache(maxsize=1)
def commands() -> tuple[frozenset[str], frozenset[str]]:
    """Read the lists of commands.

    The first list has commands that are not English words ("grep"). The second list has commands
    that are, some only together with the next word ("make test").
    """
    only_commands, also_words = (
        frozenset((WORDS / f"{name}.txt").read_text().splitlines())
        for name in ("commands", "command_words")
    )
    return only_commands, also_words


def code_lines(text: str) -> Iterator[tuple[int, int]]:
    """Yield start and end of every code line in order; empty lines are not code."""
    position = 0
    for line in text.split("\n"):
        if line.strip() and is_code_line(line):
            yield position, position + len(line)
        position += len(line) + 1


def begins_code(words: str) -> bool:
    """Return True if the first word of a line of plain words allows the line to be code."""
    first, _, rest = words.strip().partition(" ")
    only_commands, also_words = commands()
    return (
        first.lower() in FIRST_WORDS
        or first in only_commands
        or f"{first} {rest.partition(' ')[0]}" in also_words
    )


def is_code_line(line: str) -> bool:
    """Decide whether a single line is code, independently of its neighbours."""
    if STATEMENT.fullmatch(line) or PROGRAM_OUTPUT.fullmatch(line) or ONE_VALUE.fullmatch(line):
        return True
    if line[:1] in ("+", "-") and (line[1:2] != " " or line[1:3] == "  ") and len(line) > 2:
        # A line of a diff; a list item has exactly one space after its marker.
        return is_code_line(line.lstrip("+-"))
    bare = COMMENT.sub("", QUOTED.sub('""', line))
    first, _, rest = bare.strip().partition(" ")
    if first in ("sudo", "time", "exec", "nohup"):
        first, _, rest = rest.strip().partition(" ")
    only_commands, also_words = commands()
    if first in only_commands:
        return not REQUESTED.search(bare) and not SENTENCE_WORD.search(rest)
    if SENTENCE_WORD.search(bare):
        return False
    if first in also_words and FLAG_OR_PATH.search(rest):
        return True
    return " ".join(bare.split()[:2]) in also_words - {first} or bool(
        KEYWORD.fullmatch(bare) or MARK.search(bare)
    )
