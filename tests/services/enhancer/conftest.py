"""One enhancer with real word lists for all tests of this folder, since loading takes a second."""

import pytest

from services.enhancer.correction.grammar import Grammar
from services.enhancer.correction.known_words import extra_counts
from services.enhancer.correction.language import LanguageDetector
from services.enhancer.correction.spelling import Speller
from services.enhancer.correction.vocabulary import read_vocabulary
from services.enhancer.prompt import Enhancer


@pytest.fixture(scope="session")
def enhancer() -> Enhancer:
    return Enhancer(
        Speller(read_vocabulary(extra_counts())),
        Grammar(),
        LanguageDetector(),
    )
