"""Encodings: 11 of them with 40 texts each, declared in all the ways that pages use."""

from __future__ import annotations

import codecs
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.corpus.charset import charset_of, decode

RUSSIAN = (
    "Все счастливые семьи похожи друг на друга, каждая несчастливая семья несчастлива по-своему.",
    "Мороз и солнце; день чудесный! Ещё ты дремлешь, друг прелестный.",
    "Съешь же ещё этих мягких французских булок, да выпей чаю.",
    "Москва",
)
GERMAN = (
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich.",
    "Falsches Üben von Xylophonmusik quält jeden größeren Zwerg.",
    "Größe",
    "Die Straße führt über mehrere Flüsse, an Mühlen vorbei, bis zu den Dörfern.",
)
POLISH = (
    "Pchnąć w tę łódź jeża lub ośm skrzyń fig.",
    "Zażółć gęślą jaźń.",
    "Litwo! Ojczyzno moja! ty jesteś jak zdrowie.",
    "Łódź",
)
CHINESE = (
    "天地玄黄，宇宙洪荒。日月盈昃，辰宿列张。",
    "学而时习之，不亦说乎？有朋自远方来，不亦乐乎？",
    "床前明月光，疑是地上霜。举头望明月，低头思故乡。",
    "联通",
)
TAIWANESE = (
    "天地玄黃，宇宙洪荒。日月盈昃，辰宿列張。",
    "學而時習之，不亦說乎？有朋自遠方來，不亦樂乎？",
    "床前明月光，疑是地上霜。舉頭望明月，低頭思故鄉。",
    "臺灣",
)
KOREAN = (
    "모든 국민은 법 앞에 평등하다. 누구든지 차별을 받지 아니한다.",
    "나랏말이 중국과 달라 한자와는 서로 통하지 아니하므로 펲시맨과 똠방각하.",
    "동해 물과 백두산이 마르고 닳도록 하느님이 보우하사 우리나라 만세.",
    "한국",
)
JAPANESE = (
    "いろはにほへと ちりぬるを わかよたれそ つねならむ",
    "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。",
    "春はあけぼの。やうやう白くなりゆく山ぎは、すこしあかりて。カタカナも。",
    "日本",
)
GREEK = (
    "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία.",
    "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα.",
    "Μήνιν άειδε θεά.",
    "Αθήνα",
)
# Encoding, its label on pages, and texts that it can write.
ENCODINGS = {
    "gb18030": ("gb18030", CHINESE),
    "big5": ("big5", TAIWANESE),
    "cp949": ("euc-kr", KOREAN),
    "shift_jis": ("shift_jis", JAPANESE),
    "euc_jp": ("euc-jp", JAPANESE),
    "koi8_r": ("koi8-r", RUSSIAN),
    "cp1251": ("windows-1251", RUSSIAN),
    "cp1252": ("iso-8859-1", GERMAN),
    "iso8859_2": ("iso-8859-2", POLISH),
    "iso8859_7": ("iso-8859-7", GREEK),
    "utf-16": ("utf-16", (*RUSSIAN[:1], *CHINESE[:1], *GERMAN[:1], *JAPANESE[:1])),
}
# Forms of a page: start of the page, charset of the header.
FORMS = {
    "meta": ('<html><head><meta charset="{}"></head>', ""),
    "http-equiv": (
        "<html><head><META HTTP-EQUIV='Content-Type' CONTENT='text/html; charset={}'></head>",
        "",
    ),
    "header": ("<html><head><title>x</title></head>", "{}"),
    "xml": ('<?xml version="1.0" encoding="{}"?><html>', ""),
    "header before meta": ('<html><head><meta charset="utf-8"></head>', "{}"),
    "late meta": ("<html><head><script>" + "x" * 2000 + '</script><meta charset="{}"></head>', ""),
}


def cases() -> Iterator[tuple[str, str, str]]:
    """Yield 440 cases: encoding, form of the declaration, text of the page."""
    for encoding, (_, texts) in ENCODINGS.items():
        forms = [form for form in FORMS for _ in texts] * 2
        for number in range(40):
            text = " ".join(texts[: number % 4 + 1]) if number % 3 else texts[number % 4]
            yield encoding, forms[number % len(forms)], text


CASES = list(cases())


def test_cases_are_440_in_11_encodings():
    assert len(CASES) == 440
    assert len({encoding for encoding, _, _ in CASES}) == 11
    assert {form for _, form, _ in CASES} == set(FORMS)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_declared_encodings(encoding):
    label = ENCODINGS[encoding][0]
    for name, form, text in CASES:
        if name == encoding:
            start, header = (part.format(label) for part in FORMS[form])
            page = f"{start}<body><p>{text}</p></body></html>"
            content = page.encode(encoding)
            assert decode(content, header, is_html=True) == page, (form, text)


@pytest.mark.parametrize("encoding", sorted(set(ENCODINGS) - {"utf-16"}))
def test_page_that_declares_another_encoding_than_utf8(encoding):
    """Servers and templates often keep an old declaration in front of UTF-8."""
    label, texts = ENCODINGS[encoding]
    page = f"<html><body><p>{' '.join(texts)}</p></body></html>"
    assert decode(page.encode(), label, is_html=True) == page


@pytest.mark.parametrize("encoding", ["gb18030", "big5", "cp949", "shift_jis", "euc_jp", "cp1251"])
def test_undeclared_encoding_is_detected(encoding):
    text = " ".join(ENCODINGS[encoding][1]) * 4
    assert decode(text.encode(encoding)) == text


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_unicode_forms(encoding):
    page = f"<html><head><title>x</title></head><body>{' '.join(RUSSIAN)} {GERMAN[0]}</body></html>"
    assert decode(page.encode(encoding), is_html=True) == page
    assert decode(page.encode(encoding), "windows-1252", is_html=True) == page


def test_iso_2022_jp_is_not_taken_for_ascii():
    page = "<html><body>" + JAPANESE[1] + "</body></html>"
    assert decode(page.encode("iso2022_jp"), "iso-2022-jp") == page


def test_unknown_and_wrong_labels_fall_back():
    text = " ".join(RUSSIAN)
    for label in ("none", "utf-7", "x" * 40, "us-ascii"):
        assert decode(text.encode(), label) == text


def test_few_damaged_bytes_keep_the_declared_encoding():
    content = (" ".join(RUSSIAN) * 20).encode().replace("чаю".encode(), b"\xff", 1)
    assert decode(content, "utf-8") == (" ".join(RUSSIAN) * 20).replace("чаю", "\ufffd", 1)


def test_cut_character_at_the_end():
    for encoding, label in (("utf-8", ""), ("gb18030", "gbk"), ("utf-16", "")):
        content = (CHINESE[0] * 10).encode(encoding)[:-1]
        text = decode(content, label)
        assert text is not None
        assert text.startswith(CHINESE[0] * 9)


@pytest.mark.parametrize(
    "content",
    [
        bytes(range(256)) * 20,
        bytes(5000),
        b"\x1b\x02\x03\x04" * 100,
        codecs.BOM_UTF16_LE + bytes([0, 0xD8]) * 300,
    ],
)
def test_bytes_in_no_encoding(content):
    assert decode(content) is None
    assert decode(content, "utf-8") is None


@settings(max_examples=200, deadline=None)
@given(
    content=st.binary(max_size=300),
    label=st.sampled_from(["", "utf-8", "gbk", "big5", "euc-kr", "shift_jis", "utf-16", "x"]),
)
def test_any_bytes_give_text_or_nothing(content, label):
    text = decode(content, label, is_html=True)
    if text is not None:
        text.encode()


@pytest.mark.parametrize(
    ("header", "charset"),
    [
        ("text/html; charset=UTF-8", "UTF-8"),
        ('text/html;charset="gb2312"', "gb2312"),
        ("text/html; Charset = koi8-r ; x=y", "koi8-r"),
        ("text/html", ""),
    ],
)
def test_charset_of_a_header(header, charset):
    assert charset_of(header) == charset
