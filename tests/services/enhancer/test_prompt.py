"""Enhancement: corrected texts, unchanged texts, skipped texts, and properties of any text."""

import plistlib
import tempfile
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from thumbwheel.enhancer.v1 import enhancer_pb2

from services.enhancer.correction.edits import apply
from services.enhancer.prompt import Enhancer, SkipReason


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("hw do i lern python its very hard", "How do I learn Python? It's very hard."),
        ("wat is teh captial of frnace", "What is the capital of France?"),
        ("pls hlp me writ a leter to my bos", "Please help me write a letter to my boss."),
        ("can you help me with my hw", "Can you help me with my homework?"),
        (
            "i dont understand how recursion works can you explain it",
            "I don't understand how recursion works. Can you explain it?",
        ),
        ("he go to school every day", "He goes to school every day."),
        ("i has a apple", "I have an apple."),
        ("what is the book i have to read", "What is the book I have to read?"),
        ("gr8 thx", "Great thanks"),
        ("how r u", "How are you?"),
        ("how do i learn r", "How do I learn r?"),
        ("i could of gone to the the shop", "I could have gone to the shop."),
        ("hello , how are you", "Hello, how are you?"),
        (
            "what is the diffrence  between france and germany",
            "What is the difference between France and Germany?",
        ),
        ("Waht is a definately good restaraunt", "What is a definitely good restaurant?"),
    ],
)
def test_typed_text_is_corrected(enhancer: Enhancer, typed: str, meant: str) -> None:
    assert enhancer.enhance(typed).text == meant


@pytest.mark.parametrize(
    "text",
    [
        "What is the capital of France?",
        "How do I learn Python? It's very hard.",
        "Use `teh_variable` in /usr/lcoal/bin and mail jhon@exmaple.com about "
        "https://exmaple.com/teh.",
        'He said "teh end" to Priya Ramanathan.',
        "Ask Siobhan and Nguyen about Kubernetes.",
        "Toula and Shiela buy jewelry.",
        "How many popsicles and blowfish are there?",
        "What does NASA do?",
        "The price is 3,000.50 EUR for v2.10.3.",
        "Is this right: x == y?",
        "I love it 🙂",
        "Analyze the colors of the theater.",
        "Analyse the colours of the theatre.",
        "What is a writ of habeas corpus?",
        "Explain list comprehensions in Python.",
        "Dr. Smith met Mr. Jones, i.e. his boss, at 5 p.m. yesterday.",
        "- first item\n- second item",
        "Name,Age,City\nAnn,5,Rome",
        "What is the reason it's so slow?",
        "Do you think it's hard?",
        "I wonder how hard it's going to be.",
        "Fix this:\n```python\ndef fucntion(): retrun 1\n```",
    ],
)
def test_correct_or_protected_text_does_not_change(enhancer: Enhancer, text: str) -> None:
    enhancement = enhancer.enhance(text)
    assert (enhancement.text, list(enhancement.edits)) == (text, [])


@pytest.mark.parametrize(
    ("text", "skipped"),
    [
        ("hola como estas amigo", SkipReason.LANGUAGE),
        ("wie geht es dir heute", SkipReason.LANGUAGE),
        ("bonjour tout le monde", SkipReason.LANGUAGE),
        ("как дела", SkipReason.LANGUAGE),
        ("你好吗", SkipReason.LANGUAGE),
        ("for i in range(10):\n    print(i)", SkipReason.CODE),
        ("SELECT * FROM users WHERE id = 1;", SkipReason.CODE),
        ("git commit -m fix", SkipReason.CODE),
        ("a " * 5_000, SkipReason.PASTED),
        (" \n" * 200, SkipReason.PASTED),
        (" " * 300, SkipReason.PASTED),
        (
            "mi ordenador no funciona:\n\nTraceback (most recent call last):\n" * 2,
            SkipReason.PASTED,
        ),
    ],
)
def test_other_languages_code_and_documents_are_skipped(
    enhancer: Enhancer, text: str, skipped: SkipReason
) -> None:
    enhancement = enhancer.enhance(text)
    assert enhancement == enhancer_pb2.EnhanceResponse(text=text, skipped=skipped)


MODULES = [Path(file).read_text() for file in (plistlib.__file__, tempfile.__file__)]
PASTED = {
    "module": MODULES[0][:1_500],
    "6,000 characters of a module": MODULES[1][:6_000],
    "300 characters of a module": MODULES[0][:300],
    "wrapped prose": "groff is teh GNU\nversion of troff, and pipx an ini file\nof sys.exec_prefix"
    "\nas in .plist files.",
    "one paragraph": "Groff is teh GNU version of troff. " * 6,
    "list of sources": "# mirors\ndeb http://deb.debian.org/debian stable main\n",
    "page": "# Instalation\n\nUse pipx in an ini file.\n\nPlease reprot errors.\n",
    "yaml": "apiVersion: v1\nkind: Pod\nmetadata:\n  nmae: my-pod\n",
}


@pytest.mark.parametrize("pasted", PASTED.values(), ids=PASTED)
def test_pasted_text_does_not_change(enhancer: Enhancer, pasted: str) -> None:
    enhancement = enhancer.enhance(pasted)
    assert enhancement == enhancer_pb2.EnhanceResponse(text=pasted, skipped=SkipReason.PASTED)


@pytest.mark.parametrize("pasted", PASTED.values(), ids=PASTED)
def test_typed_line_next_to_pasted_text_is_corrected(enhancer: Enhancer, pasted: str) -> None:
    for typed, meant in (
        (f"pls revew this code:\n\n{pasted}", f"Please review this code:\n\n{pasted}"),
        (f"{pasted}\n\nwat does this do", f"{pasted}\n\nWhat does this do?"),
        (f"i get this eror:\n{pasted}\nwhy?", f"I get this error:\n{pasted}\nwhy?"),
    ):
        enhancement = enhancer.enhance(typed)
        assert (enhancement.text, enhancement.skipped) == (meant, SkipReason.NONE)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (
            "hi i am lerning python since two weeks and i dont understand the diffrence between a "
            "list and a tuple because both of them have brackets and both of them can be used in a "
            "loop so can you explain it to me",
            "Hi I am learning Python since two weeks and I don't understand the difference between "
            "a list and a tuple because both of them have brackets and both of them can be used in "
            "a loop so can you explain it to me.",
        ),
        ("hi\nhow do i lern pyhton\nthx", "hi\nhow do I learn Python\nthanks"),
    ],
    ids=["long line", "three lines"],
)
def test_longer_typed_text_is_corrected(enhancer: Enhancer, typed: str, meant: str) -> None:
    assert enhancer.enhance(typed).text == meant


WORDS = st.sampled_from(
    (
        "hw do i lern python its very hard pls hlp me writ a leter teh captial of frnace u r "
        "gr8 dont im he go what is `co de` "
        '"quo ted" http://a.b/c x_y 42 , . ? ! Priya NASA has a apple thx the the could of '
        "então ça 🙂 i'm\n - ( ) : "
        "tcp grep -r make test def f(x): == return kubectl apis foo: +"
    ).split(" ")
)
TEXTS = st.one_of(
    st.lists(WORDS, max_size=14).map(" ".join),
    st.text(max_size=60),
    st.lists(st.lists(WORDS, max_size=24).map(" ".join), max_size=8).map("\n".join),
)


@settings(max_examples=100)
@given(TEXTS)
def test_enhancement_is_idempotent_and_its_edits_rebuild_the_text(
    enhancer: Enhancer, text: str
) -> None:
    once = enhancer.enhance(text)
    assert apply(text, once.edits) == once.text
    for edit, following in pairwise(once.edits):
        assert edit.end <= following.start
    assert all(0 <= edit.start <= edit.end <= len(text) for edit in once.edits)
    assert all(text[edit.start : edit.end] != edit.replacement for edit in once.edits)
    assert enhancer.enhance(once.text).text == once.text
    assert enhancer.enhance(text) == once
