"""The page in a real browser: what a person sees is the text, cut where the tokenizer cuts it, and
nothing of it runs.
"""

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from infra.install.tools import install_browser
from tests.training.tokenization.made import HARD, made
from training.tokenization.comparison import measure
from training.tokenization.learning import Kind
from training.tokenization.opened import TextTokenizer
from training.tokenization.page import MOST_CHARACTERS, Shown, write_page

# As the journeys start it: without a GPU, without /dev/shm, without rights for a sandbox.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-software-rasterizer",
    "--disable-dev-shm-usage",
]
ATTACK = "<script>document.title='run'</script><img src=x onerror=alert(1)> \" ' & </div>"
LETTERS = """spans => spans.map(
    span => [...span.childNodes].filter(node => node.nodeName != 'I').map(node => node.textContent).join(''))"""


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> list[TextTokenizer]:
    home = tmp_path_factory.mktemp("tokenizers")
    return [made(home / kind, kind, 600) for kind in Kind]


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    """A page that lists whatever it complains of or asks for."""
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=str(install_browser()), args=FLAGS)
        yield chromium.new_page(viewport={"width": 900, "height": 700})
        chromium.close()


def opened(browser: Page, path: Path, text: str, tokenizers: list[TextTokenizer]) -> Page:
    troubles: list[str] = []
    browser.on("console", lambda message: troubles.append(message.text))
    browser.on(
        "request", lambda asked: troubles.append(asked.url) if asked.url != path.as_uri() else None
    )
    write_page(path, Shown(text, "The text given", whole=True), tokenizers)
    browser.goto(path.as_uri())
    assert not troubles
    return browser


def test_each_tokenizer_has_its_tokens_in_their_order_with_id_and_bytes(
    browser: Page, tmp_path: Path, tokenizers: list[TextTokenizer]
) -> None:
    text = "Hello,  world!\n\tthe 😀 model שלום\n"
    page = opened(browser, tmp_path / "page.html", text, tokenizers)
    expect(page.locator("h2")).to_have_text([tokenizer.name for tokenizer in tokenizers])
    for tokenizer, block in zip(tokenizers, page.locator(".text").all(), strict=True):
        titles = [span.get_attribute("title") or "" for span in block.locator("span").all()]
        pieces = tokenizer.pieces(text)
        assert [title.split(",")[0].split()[1] for title in titles] == [
            str(piece.id) for piece in pieces
        ]
        shown = [title.split(": ")[1].split(",")[0] for title in titles]
        assert [bytes.fromhex(hexadecimal) for hexadecimal in shown] == [
            piece.content for piece in pieces
        ]


@pytest.mark.parametrize("text", [*HARD[1:], ATTACK], ids=range(len(HARD)))
def test_what_is_seen_of_a_text_is_the_text(
    browser: Page, tmp_path: Path, tokenizers: list[TextTokenizer], text: str
) -> None:
    page = opened(browser, tmp_path / "page.html", text, tokenizers)
    assert page.title() == "How a text splits"
    for tokenizer, block in zip(tokenizers, page.locator(".text").all(), strict=True):
        seen = block.locator("span").evaluate_all(LETTERS)
        for letters, piece in zip(seen, tokenizer.pieces(text), strict=True):
            decoded = piece.content.decode(errors="ignore")
            rest = iter(decoded)
            assert all(letter in rest for letter in letters)
            if decoded.isprintable() and decoded.encode() == piece.content:
                assert letters == decoded


def test_tokens_stand_left_to_right_in_reading_order_whatever_their_writing(
    browser: Page, tmp_path: Path, tokenizers: list[TextTokenizer]
) -> None:
    page = opened(browser, tmp_path / "page.html", "ab שלום cd مرحبا", [tokenizers[-1]])
    lefts = [
        span.evaluate("span => span.getBoundingClientRect().left")
        for span in page.locator(".text span").all()
    ]
    assert lefts == sorted(lefts)
    assert len(set(lefts)) == len(lefts)


def test_spaces_and_line_ends_take_room(
    browser: Page, tmp_path: Path, tokenizers: list[TextTokenizer]
) -> None:
    page = opened(browser, tmp_path / "page.html", "a   b\nc", [tokenizers[-1]])
    boxes = page.locator(".text span").evaluate_all(
        "all => all.map(s => s.getBoundingClientRect().toJSON())"
    )
    a, *spaces, b, line_end, c = boxes
    assert all(space["width"] == pytest.approx(a["width"], rel=0.05) for space in spaces)
    assert b["top"] == a["top"]
    assert c["top"] > line_end["top"]
    colours = page.locator(".text span").evaluate_all(
        "all => all.map(s => getComputedStyle(s).backgroundColor)"
    )
    assert all(one != other for one, other in pairwise(colours))


def test_unknown_tokens_are_counted_and_stand_out(
    browser: Page, tmp_path: Path, tokenizers: list[TextTokenizer]
) -> None:
    page = opened(browser, tmp_path / "page.html", "日本 and the", [tokenizers[-1]])
    expect(page.locator(".text .unknown")).to_have_count(2)
    expect(page.locator("p .bad").last).to_have_text("2 unknown")


def test_a_comparison_stands_above_the_splittings(
    browser: Page,
    tmp_path: Path,
    tokenizers: list[TextTokenizer],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    home = tmp_path_factory.mktemp("compared")
    ours = made(home, Kind.BYTE_PAIRS, 300)
    path = tmp_path / "new" / "page.html"
    write_page(
        path,
        Shown("abc", "Held-out text", whole=False),
        [ours],
        [measure(ours, home, ["the words", "  "])],
    )
    browser.goto(path.as_uri())
    expect(browser.locator("td").first).to_have_text(ours.name)
    expect(browser.locator("td")).to_have_count(7)
    expect(browser.locator("body")).to_contain_text("2 texts, 11 bytes")
    expect(browser.locator("body")).to_contain_text("its first 3 characters")
    assert [file.name for file in path.parent.iterdir()] == ["page.html"], (
        "nothing half-written is left"
    )


def test_a_folder_is_no_place_for_a_page(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(tmp_path.name)):
        write_page(tmp_path, Shown("x", "The text given", whole=True), [])


def test_a_full_page_stays_a_file_that_opens(
    tmp_path: Path, tokenizers: list[TextTokenizer]
) -> None:
    path = tmp_path / "page.html"
    write_page(
        path, Shown("é😀" * (MOST_CHARACTERS // 2), "The text given", whole=True), tokenizers
    )
    assert path.stat().st_size < 10_000_000
