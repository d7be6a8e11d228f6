"""Decoding of pages: byte order mark, declared encoding, and detection.

The order follows the WHATWG encoding standard, with an exception: bytes that are UTF-8 beyond
chance are UTF-8, although servers and pages often declare another encoding.
"""

from __future__ import annotations

import codecs
import re

from resiliparse.parse.encoding import detect_encoding, map_encoding_to_html5

# UTF-32 before UTF-16, whose mark is a prefix of it.
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# Python's codecs with the repertoire that the WHATWG standard gives to these labels.
WIDER_CODECS = {
    "gbk": "gb18030",
    "euc_kr": "cp949",
    "shift_jis": "cp932",
    "big5": "big5hkscs",
    "iso8859-11": "cp874",
}
# Labels that resiliparse does not map.
FURTHER_LABELS = {"x-mac-cyrillic": "mac_cyrillic"}
# UTF-8 allows a quarter of the values for each byte of a character after the first. So many of
# these bytes without an error between them are no coincidence: 16 letters of Cyrillic, 8 of
# Chinese.
CERTAIN_UTF8_BYTES = 16
# WHATWG asks for 1,024 bytes; many pages have long scripts before the element.
META_BYTES = 4096
# resiliparse's limit for text in `detect_mime`.
MAX_UNPRINTABLE_SHARE = 0.05
# A page with a few damaged bytes stays in its declared encoding.
MAX_REPLACED_SHARE = 0.01
SAMPLE_BYTES = 4096

META_CHARSET = re.compile(
    rb"<meta\b[^>]{0,400}?charset\s*=\s*[\"']?\s*([A-Za-z0-9_.:\-]{1,40})", re.IGNORECASE
)
XML_ENCODING = re.compile(rb"\s*<\?xml\b[^>]{0,200}?encoding\s*=\s*[\"']([A-Za-z0-9_.:\-]{1,40})")
HEADER_CHARSET = re.compile(r"charset\s*=\s*[\"']?\s*([A-Za-z0-9_.:\-]{1,40})", re.IGNORECASE)
UNPRINTABLE = re.compile("[\0-\x08\x0b\x0e-\x1a\x1c-\x1f\x7f-\x84\x86-\x9f\ufffd\ufffe\uffff]")


def charset_of(content_type: str) -> str:
    """Return the charset parameter of a Content-Type header; "" if absent."""
    found = HEADER_CHARSET.search(content_type)
    return found[1] if found else ""


def query_codec(content: bytes, content_type: str) -> str:
    """Return Python's codec for the queries of links in an HTML page.

    Browsers use the declared encoding, but UTF-8 instead of UTF-16 (WHATWG URL §4.1).

    Args:
        content_type: value of the HTTP header.
    """
    labels = (charset_of(content_type), _label_in_page(content))
    name = next(filter(None, map(_codec_of, labels)), "utf-8")
    return "utf-8" if name.lower().startswith("utf-16") else name


def decode(content: bytes, declared: str = "", is_html: bool = False) -> str | None:
    """Return the text of a page without byte order mark; None if the bytes are no text.

    Content may be cut inside a character. Single damaged bytes become U+FFFD.

    Args:
        declared: label of the encoding from a header; "" if there is none.
        is_html: look for a declaration in the page as well.
    """
    for mark, name in BYTE_ORDER_MARKS:
        if content.startswith(mark):
            return _checked(content[len(mark) :].decode(name, "replace"))
    if b"\0" in content[:SAMPLE_BYTES] and (name := _utf16_by_zeros(content)):
        return _checked(content.decode(name, "replace"))
    labels = [declared]
    if is_html:
        labels.append(_label_in_page(content))
    named = [name for label in labels if (name := _codec_of(label))]
    as_utf8 = _decode_strictly(content, "utf-8")
    # ISO-2022-JP consists of ASCII bytes.
    is_escaped = b"\x1b" in content and "iso2022_jp" in named
    if as_utf8 is not None and not is_escaped:
        following_bytes = len(content) - len(as_utf8)
        if not named or not following_bytes or following_bytes >= CERTAIN_UTF8_BYTES:
            return _checked(as_utf8)
    for name in named:
        if (text := _decode_strictly(content, name)) is not None:
            return _checked(text)
    for name in named:
        text = content.decode(name, "replace")
        if text.count("\ufffd") <= MAX_REPLACED_SHARE * len(text):
            return _checked(text)
    if as_utf8 is not None:
        return _checked(as_utf8)
    return _checked(content.decode(_detected_codec(content), "replace"))


def _detected_codec(content: bytes) -> str:
    # With its default of WHATWG names, resiliparse returns UTF-8 for Korean.
    label = detect_encoding(content, html5_compatible=False) or ""
    if name := _codec_of(label):
        return name
    try:
        return codecs.lookup(label).name
    except LookupError:
        return "cp1252"


def _codec_of(label: str) -> str:
    """Return Python's codec for a label of the WHATWG standard; "" for unknown labels."""
    label = label.strip().lower()
    name = FURTHER_LABELS.get(label) or map_encoding_to_html5(label, fallback_utf8=False) or ""
    return WIDER_CODECS.get(name, name)


def _label_in_page(content: bytes) -> str:
    start = content[:META_BYTES]
    found = XML_ENCODING.match(start) or META_CHARSET.search(start)
    label = found[1].decode("ascii") if found else ""
    # A declaration that can be read as ASCII is not in UTF-16 (WHATWG HTML §13.2.3.2).
    return "utf-8" if label.lower().startswith("utf-16") else label


def _decode_strictly(content: bytes, name: str) -> str | None:
    """Decode without errors, except for a cut character at the end."""
    try:
        return codecs.getincrementaldecoder(name)().decode(content, final=False)
    except UnicodeDecodeError:
        return None


def _utf16_by_zeros(content: bytes) -> str:
    """Return the byte order of UTF-16 without a mark, by the zero bytes of its ASCII characters."""
    sample = content[:SAMPLE_BYTES]
    even, odd = sample[::2].count(0), sample[1::2].count(0)
    if odd > len(sample) / 10 and even < odd / 10:
        return "utf-16-le"
    return "utf-16-be" if even > len(sample) / 10 and odd < even / 10 else ""


def _checked(text: str) -> str | None:
    if UNPRINTABLE.search(text) is None:
        return text
    unprintable = len(UNPRINTABLE.findall(text))
    return None if unprintable > MAX_UNPRINTABLE_SHARE * len(text) else text
