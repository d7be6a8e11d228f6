"""Detection of code lines: statements, shell commands, data, diffs, stack traces and logs.

A line is code if its form never occurs in sentences, if it has code marks and no word of a
sentence, or if it belongs to a block of code.
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

WORDS = Path(__file__).parent / "words"

# Forms that never occur in sentences.
STATEMENT = re.compile(
    r"""(?:
      (?:>>>|\.\.\.|\$|\#!)\s.* | \#!.* | \#\s?(?:include|define|ifn?def|endif|pragma)\b.*
    | \s*(?://|/\*|\*/|--\s).*
    | \s*(?:(?:async\s+)?def|class)\s+\w+(?:\(.*|.*:.*) | .*\s\\
    | \s*(?:from\s+[\w.]+\s+import|import\s+[\w.]+)(?:[\s,].*|;)?
    | \s*(?:public|private|protected|static|const|let|var|func|fn|void|int|float|double|char
        |struct|enum)\s+[\w<>\[\]*]+.*[;{=(].*
    | .*[;{}]\ * | \s*[\])}]+[;,]?\s* | \s*@\w+.* | \s*return\b.*[;)\]\d]
    | (?:\ {4,}|\t+)\S.*
    | \s*(?i:select|insert|update|delete|create|alter|drop)\s.*\b(?i:from|into|set|table|where
        |values)\b.*[;*(].*
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
    | \b\w+\([^()]*\) | ;\s*(?:then|do)\b | \s\*\w+\b(?!\*) | [\w)]\[[^\]]*\]
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
DIFF_HEADER = re.compile(r"diff --git |@@ |--- \S|\+\+\+ \S")
DIFF_LINE = re.compile(r"[-+ \\]|index \w|new file|deleted file|similarity|rename |@@ |diff --git ")
KEY_AND_VALUE = re.compile(
    r"(?P<indent>\s*)(?:-\s+)?[A-Za-z_][\w./-]*:(?P<value>\s+\S+(?:\s+\S+){0,2})?\s*"
)
ONE_VALUE = re.compile(r"\s*[a-z_]\w*:\s+\S+\s*")
OPENS_BLOCK = re.compile(r"[:{(\[,\\]\s*$|\b(?:then|do|else)\s*$")


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
    lines = text.split("\n")
    code = [bool(line.strip()) and is_code_line(line) for line in lines]
    if len(lines) > 1:
        _mark_diffs(lines, code)
        _mark_data(lines, code)
        _mark_blocks(lines, code)
    position = 0
    for line, is_code in zip(lines, code, strict=True):
        if is_code:
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


def _mark_diffs(lines: list[str], code: list[bool]) -> None:
    """Mark the lines from the header of a diff to the last line that belongs to the diff."""
    inside = False
    for number, line in enumerate(lines):
        inside = bool(DIFF_HEADER.match(line) or (inside and DIFF_LINE.match(line)))
        code[number] = code[number] or inside


def _mark_data(lines: list[str], code: list[bool]) -> None:
    """Mark two or more consecutive lines of keys and short values (YAML)."""
    found = [KEY_AND_VALUE.fullmatch(line) for line in lines]
    for number, match in enumerate(found):
        if not match or SENTENCE_WORD.search(match["value"] or ""):
            continue
        following = found[number + 1] if number + 1 < len(found) else None
        before = found[number - 1] if number else None
        # A key without a value needs indented lines below: two headings ("Question:", "Context:")
        # are not data.
        if match["value"] is None:
            code[number] |= bool(following and len(following["indent"]) > len(match["indent"]))
            code[number] |= bool(following and lines[number + 1].lstrip().startswith("- "))
            code[number] |= bool(before and code[number - 1])
        else:
            code[number] |= bool(
                (following and following["value"]) or (before and code[number - 1])
            )


def _mark_blocks(lines: list[str], code: list[bool]) -> None:
    """Mark lines indented below code, and lines without words of a sentence between code lines."""
    for number in range(1, len(lines)):
        line, above = lines[number], lines[number - 1]
        if code[number] or not line.strip() or not code[number - 1]:
            continue
        deeper = _indent(line) > _indent(above) and OPENS_BLOCK.search(above)
        same_level = _indent(line) == _indent(above) > 0
        between = number + 1 < len(lines) and code[number + 1] and not SENTENCE_WORD.search(line)
        code[number] = bool(deeper or same_level or between)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())
