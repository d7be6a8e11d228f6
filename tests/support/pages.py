"""Commands on the pages of the documentation: fenced blocks and code in the text."""

import re
from dataclasses import dataclass

FENCED = re.compile(
    r"^(?:<!-- (?P<mark>[^\n]+?) -->\n)?(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^ *```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class PageBlock:
    """A fenced block of a page.

    Args:
        mark: text of the comment in the line above the block; "" without one.
        language: "sh" for commands that can be pasted as they are.
        text: content, without the indentation of the fence.
    """

    mark: str
    language: str
    text: str

    @property
    def commands(self) -> list[str]:
        """Return the commands of the lines, without comments and line continuations."""
        lines = self.text.replace("\\\n", "").splitlines()
        commands = (re.sub(r"(^|\s+)#.*", "", line).strip() for line in lines)
        return [command for command in commands if command]


def blocks_of(text: str, language: str = "sh") -> list[PageBlock]:
    """Return the fenced blocks of a page that have this language, in their order."""
    return [
        PageBlock(
            block["mark"] or "",
            block["language"],
            re.sub(f"^{block['indent']}", "", block["text"], flags=re.MULTILINE),
        )
        for block in FENCED.finditer(text)
        if block["language"] == language
    ]


def inline_code(text: str) -> list[str]:
    """Return the code in the text, the tables and the comments of a page, on one line each."""
    spans = re.findall(r"`([^`]+)`", re.sub(r"^ *```.*$", "", text, flags=re.MULTILINE))
    return [" ".join(span.replace("\\|", "|").split()) for span in spans]
