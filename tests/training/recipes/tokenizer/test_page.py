"""The page in a real browser: visible text equals the input, split into tokens, without scripts."""

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from infra.install.tools import install_browser
from tests.training.tokenization.sample_tokenizers import DIFFICULT, open_trained
from training.recipes.tokenizer.page import MAX_CHARACTERS, SampleText, write_page
from training.tokenization.comparison import measure
from training.tokenization.learning import TokenKind
from training.tokenization.text_tokenizer import TextTokenizer

# Flags of the browser tests: without GPU, /dev/shm and sandbox.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-software-rasterizer",
    "--disable-dev-shm-usage",
]
ATTACK = "<script>document.title='run'</script><img src=x onerror=alert(1)> \" ' & </div>"
LETTERS = """spans => spans.map(span => [...span.childNodes]
    .filter(node => node.nodeName != 'I').map(node => node.textContent).join(''))"""


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> list[TextTokenizer]:
    home = tmp_path_factory.mktemp("tokenizers")
    return [open_trained(home / kind, kind, 600) for kind in TokenKind]


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    """Yield a page of a running browser."""
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=str(install_browser()), args=FLAGS)
        yield chromium.new_page(viewport={"width": 900, "height": 700})
        chromium.close()


def open_page(browser: Page, path: Path, text: str, tokenizers: list[TextTokenizer]) -> Page:
    problems: list[str] = []
    browser.on("console", lambda message: problems.append(message.text))
    browser.on(
        "request",
        lambda request: problems.append(request.url) if request.url != path.as_uri() else None,
    )
    write_page(path, SampleText(text, "The text given", whole=True), tokenizers)
    browser.goto(path.as_uri())
    assert not problems
    return browser


def test_page_lists_every_token_in_order_with_id_and_bytes(
    browser: Page, tmp_path: Path, tokenizers: list[TextTokenizer]
) -> None:
    text = "Hello,  world!\n\tthe 😀 model שלום\n"
    page = open_page(browser, tmp_path / "page.html", text, tokenizers)
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


@pytest.mark.parametrize("text", [*DIFFICULT[1:], ATTACK], ids=range(len(DIFFICULT)))
def test_visible_text_of_the_page_is_the_text(
    browser: Page, tmp_path: Path, tokenizers: list[TextTokenizer], text: str
) -> None:
    page = open_page(browser, tmp_path / "page.html", text, tokenizers)
    assert page.title() == "How a text splits"
    for tokenizer, block in zip(tokenizers, page.locator(".text").all(), strict=True):
        seen = block.locator("span").evaluate_all(LETTERS)
        for letters, piece in zip(seen, tokenizer.pieces(text), strict=True):
            decoded = piece.content.decode(errors="ignore")
            rest = iter(decoded)
            assert all(letter in rest for letter in letters)
            if decoded.isprintable() and decoded.encode() == piece.content:
                assert letters == decoded


def test_tokens_are_left_to_right_for_every_script(
    browser: Page, tmp_path: Path, tokenizers: list[TextTokenizer]
) -> None:
    page = open_page(browser, tmp_path / "page.html", "ab שלום cd مرحبا", [tokenizers[-1]])
    lefts = [
        span.evaluate("span => span.getBoundingClientRect().left")
        for span in page.locator(".text span").all()
    ]
    assert lefts == sorted(lefts)
    assert len(set(lefts)) == len(lefts)


def test_spaces_and_line_ends_are_visible(
    browser: Page, tmp_path: Path, tokenizers: list[TextTokenizer]
) -> None:
    page = open_page(browser, tmp_path / "page.html", "a   b\nc", [tokenizers[-1]])
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


def test_unknown_tokens_are_counted_and_highlighted(
    browser: Page, tmp_path: Path, tokenizers: list[TextTokenizer]
) -> None:
    page = open_page(browser, tmp_path / "page.html", "日本 and the", [tokenizers[-1]])
    expect(page.locator(".text .unknown")).to_have_count(2)
    expect(page.locator("p .bad").last).to_have_text("2 unknown")


def test_comparison_table_precedes_the_tokens(
    browser: Page,
    tmp_path: Path,
    tokenizers: list[TextTokenizer],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    home = tmp_path_factory.mktemp("compared")
    ours = open_trained(home, TokenKind.BYTE_PAIRS, 300)
    path = tmp_path / "new" / "page.html"
    write_page(
        path,
        SampleText("abc", "Held-out text", whole=False),
        [ours],
        [measure(ours, home / "tokenizer.json", ["the words", "  "])],
    )
    browser.goto(path.as_uri())
    expect(browser.locator("td").first).to_have_text(ours.name)
    expect(browser.locator("td")).to_have_count(7)
    expect(browser.locator("body")).to_contain_text("2 texts, 11 bytes")
    expect(browser.locator("body")).to_contain_text("its first 3 characters")
    assert [file.name for file in path.parent.iterdir()] == ["page.html"], (
        "nothing half-written is left"
    )


def test_folder_as_page_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(tmp_path.name)):
        write_page(tmp_path, SampleText("x", "The text given", whole=True), [])


def test_size_of_a_full_page_is_bounded(tmp_path: Path, tokenizers: list[TextTokenizer]) -> None:
    path = tmp_path / "page.html"
    write_page(
        path, SampleText("é😀" * (MAX_CHARACTERS // 2), "The text given", whole=True), tokenizers
    )
    assert path.stat().st_size < 10_000_000
