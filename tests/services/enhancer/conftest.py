"""One enhancer with real word lists for all tests of this folder, since loading takes a second."""

import pytest

from services.enhancer.grammar import Grammar
from services.enhancer.known_words import extra_counts
from services.enhancer.language import LanguageDetector
from services.enhancer.prompt import Enhancer
from services.enhancer.spelling import Speller
from services.enhancer.vocabulary import read_vocabulary


@pytest.fixture(scope="session")
def enhancer() -> Enhancer:
    return Enhancer(
        Speller(read_vocabulary(extra_counts())),
        Grammar(),
        LanguageDetector(),
        longest_characters=8_000,
    )
