"""Rules of C4 for lines and whole texts.

Source: Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text
Transformer", JMLR 21 (2020) 140, section 2.2; lines with long words, citations and policies are in
the authors' code (tensorflow_datasets, text/c4_utils.py). FineWeb leaves out the rule that a line
ends with punctuation. The order of the rules is that of datatrove 0.10.1.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from training.corpus.document import Document, Stage, Verdict
from training.corpus.quality.gopher import bounded
from training.corpus.quality.words import Tokenizer

MIN_SENTENCES = 5
MIN_WORDS_PER_LINE = 3
MAX_WORD_LENGTH = 1000
LINE_ENDS = (".", "?", "!", '"', "'")
POLICY_PHRASES = (
    "terms of use",
    "privacy policy",
    "cookie policy",
    "uses cookies",
    "use of cookies",
    "use cookies",
)
_CITATION = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")
_PHRASES = ("lorem ipsum", "javascript", *POLICY_PHRASES)


@dataclass(frozen=True)
class Lines:
    """Remove lines without running text; drop texts with fewer than five sentences.

    Args:
        tokenizer: without one, each kept line counts as a sentence.
        punctuated: remove lines that do not end with punctuation, as C4 did and FineWeb did not.
    """

    tokenizer: Tokenizer | None
    punctuated: bool = False

    def __call__(self, document: Document) -> Document | Verdict:
        kept: list[str] = []
        sentences = 0
        lower = document.text.lower()
        # Phrases can also appear by the removal of a citation.
        suspicious = "[" in lower or any(phrase in lower for phrase in _PHRASES)
        for untrimmed in document.text.splitlines():
            line = untrimmed.strip()
            words = line.split(maxsplit=MIN_WORDS_PER_LINE - 1)
            if len(line) > MAX_WORD_LENGTH and max(map(len, line.split())) > MAX_WORD_LENGTH:
                continue
            if "[" in line:
                line = _CITATION.sub("", line)
            if self.punctuated and (not line.endswith(LINE_ENDS) or line.endswith("...")):
                continue
            if len(words) < MIN_WORDS_PER_LINE:
                continue
            line_lower = line.lower() if suspicious else ""
            if "lorem ipsum" in line_lower:
                return Verdict(Stage.QUALITY, "c4 lorem ipsum")
            if "javascript" in line_lower:
                continue
            if "{" in line:
                return Verdict(Stage.QUALITY, "c4 curly bracket")
            if suspicious and any(phrase in line_lower for phrase in POLICY_PHRASES):
                continue
            if sentences < MIN_SENTENCES:
                sentences += self._sentences(line, MIN_SENTENCES - sentences)
            kept.append(line)
        if sentences < MIN_SENTENCES:
            value = bounded(sentences, least=MIN_SENTENCES)
            return Verdict(Stage.QUALITY, "c4 few sentences", value)
        return replace(document, text="\n".join(kept).strip())

    def _sentences(self, line: str, enough: int) -> int:
        return self.tokenizer.sentences(line, enough) if self.tokenizer is not None else 1
