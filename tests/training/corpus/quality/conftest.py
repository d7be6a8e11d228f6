"""Documents and a tokenizer that the tests of the rules share."""

from collections.abc import Callable

import pytest

from training.corpus.document import Document, Origin
from training.corpus.quality.words import Tokenizer


@pytest.fixture(scope="session")
def english() -> Tokenizer:
    return Tokenizer("en")


@pytest.fixture(scope="session")
def document() -> Callable[..., Document]:
    def make(text: str, language: str = "en") -> Document:
        return Document(Origin("0"), text, language)

    return make


@pytest.fixture(scope="session")
def prose() -> str:
    """An ordinary English text that all rules keep."""
    return """The harbour was opened in 1874, when the first railway reached the coast.
Before that, merchants had to carry their goods over the hills, which took four days.
A small museum near the river shows how the town has changed since then, and who built it.
Most of the houses that you can see today were finished between the two great fires.
The council has decided to repair the old bridge, because heavy lorries have damaged it.
Visitors are asked to leave their cars outside and to walk through the narrow streets.
In summer, concerts are held on the market square, and the shops stay open until ten.
Nobody knows for certain why the monks left, but several letters speak of a bad harvest.
With a little luck, you will be able to see seals on the sandbanks at low water."""


@pytest.fixture(scope="session")
def german_prose() -> str:
    """An ordinary German text."""
    return """Der Hafen wurde 1874 eröffnet, als die Eisenbahn zum ersten Mal die Küste erreichte.
Vorher mussten Händler ihre Waren über die Hügel tragen, wofür sie vier Tage brauchten.
Ein kleines Museum am Fluss zeigt, wie sich der Ort seitdem verändert hat und wer ihn baute.
Die meisten Häuser, die man heute sieht, entstanden zwischen den beiden großen Bränden.
Im Sommer finden Konzerte auf dem Marktplatz statt, und die Läden haben bis zehn Uhr auf.
Niemand weiß genau, warum die Mönche gingen, doch mehrere Briefe berichten von Missernten."""
