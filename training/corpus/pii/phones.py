"""Detection of telephone numbers by the numbering plans of libphonenumber."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import phonenumbers
from phonenumbers import Leniency, NumberParseException, PhoneNumberMatcher

from training.corpus.pii.kinds import Kind, Span
from training.corpus.pii.labels import PHONE, WORD_CHARACTERS, labels_before
from training.corpus.pii.numbers import Part, in_url

# ITU-T E.164: at most 15 digits with the country code, here with "00" and "(0)".
CANDIDATE = re.compile(
    rf"(?<![{WORD_CHARACTERS}#$€£¥%])"
    r"(?<!\d[.:/-])(?<![A-Za-z][-_])"
    r"(?:\+\s?|\+?\()?\d(?:(?:[ .\-/\u00a0\u2010-\u2013]|\)[ \-/]?|[ \-]?\()?\d){6,17}"
    rf"(?![{WORD_CHARACTERS}]"
    r"|[.:/-]\d|,\d{1,3}(?![\d-])|\s?[€$%£]|\s(?:EUR|USD|GBP|Euro|euros|bytes|kg|km)\b)"
)
# In this form the next labels are for other numbers, or the number is a date, a sum or a range.
OTHER_SHAPES = re.compile(
    r"\d{4}[-./]\d\d?[-./]\d\d?\b.*|\d\d?[-./]\d\d?[-./]\d{4}\b.*|\d{1,3}(?:[. ]\d{3})+|"
    r"\d{4,5}[-–]\d{4}|0-\d+|\d{1,3}(?:\.\d{1,3}){3}|97[89][- ]?\d.*|\d\d?(?:-\d\d?)+|\d+\.\d+"
)
GROUPED_SUM = re.compile(r"[1-9]\d{0,2}(?:[. ]\d{3})+")
INTERNATIONAL = re.compile(r"\+|00[1-9]")
# One kind of separator, which distinguishes numbers from "DFARS 252.227-7014".
NORTH_AMERICAN = re.compile(
    r"(?:1[ .-])?(?:\([2-9]\d\d\)[ -]?[2-9]\d\d[ .-]\d{4}|[2-9]\d\d([ .-])[2-9]\d\d\1\d{4})"
)
NORTH_AMERICA = frozenset({"US", "CA"})
SEPARATED = re.compile(r"[ .\-/()\u00a0\u2010-\u2013]")
# Without a country of the text, a labelled number is tried in these.
USUAL_REGIONS = ("US", "GB", "DE", "FR")


def find_phones(text: str, part: Part, regions: Sequence[str]) -> Iterator[Span]:
    """Yield telephone numbers in a part of a text.

    A number with a country code must be valid. A national number must be valid in one of the
    regions, and either a label precedes it, or it is written as in that country: with its trunk
    prefix or area code, and in the usual groups.

    Args:
        regions: ISO 3166 codes, the most likely one first.
    """
    for found in CANDIDATE.finditer(text, part.start, part.end):
        written = found[0]
        start = found.start()
        if written.count("(") != written.count(")"):
            # The parenthesis surrounds more than the area code.
            if not written.startswith("(") or written.count(")"):
                continue
            written, start = written[1:], start + 1
        if INTERNATIONAL.match(written):
            number = _valid(re.sub(r"^00", "+", written), None)
            # "0069 0307 0303" are code points. Codes below 100 are those of large countries.
            is_long = number is not None and (number.country_code or 0) >= 100
            if written[0] == "0" and is_long and PHONE not in labels_before(text, start):
                number = None
        else:
            number = _national(text, start, written, regions)
        if number is not None and not in_url(text, start):
            value = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
            yield Span(start, start + len(written), Kind.PHONE, str(value))


def _national(
    text: str, start: int, written: str, regions: Sequence[str]
) -> phonenumbers.PhoneNumber | None:
    labels = labels_before(text, start)
    if PHONE in labels:
        if OTHER_SHAPES.fullmatch(written) and not GROUPED_SUM.fullmatch(written):
            return None
        digits = phonenumbers.normalize_digits_only(written)
        for region in regions or USUAL_REGIONS:
            if (number := _valid(written, region)) is None:
                continue
            # Without the usual trunk prefix, counts after "call" or "text" are valid numbers.
            usual = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.NATIONAL)
            usual_digits = phonenumbers.normalize_digits_only(usual)
            # In India, mobile numbers are written without it. After a colon the label is certain.
            is_field = text[max(0, start - 2) : start].strip().endswith(":")
            if digits in (usual_digits, f"1{usual_digits}") or region == "IN" or is_field:
                return number
        return None
    if labels or not SEPARATED.search(written) or OTHER_SHAPES.fullmatch(written):
        return None
    for region in regions[:2]:
        # A trunk prefix or an area code, without which numbers of tables match.
        is_dialled = (
            NORTH_AMERICAN.fullmatch(written) is not None
            if region in NORTH_AMERICA
            else written.startswith(("0", "("))
        )
        if is_dialled:
            matcher = PhoneNumberMatcher(written, region, leniency=Leniency.STRICT_GROUPING)
            match = next(iter(matcher), None)
            if match is not None and match.raw_string == written:
                return match.number
    return None


def _valid(written: str, region: str | None) -> phonenumbers.PhoneNumber | None:
    try:
        number = phonenumbers.parse(written, region)
    except NumberParseException:
        return None
    return number if phonenumbers.is_valid_number(number) else None
