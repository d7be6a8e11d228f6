"""Search for phone numbers in windows of an answer.

PhoneNumberMatcher parses up to 20 parts of a window, 30 to 100 microseconds each. It is asked only
if the digits of a part that starts in the first word are a valid number, which most numbers of
lists, tables and code are not.
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import takewhile

import phonenumbers
from phonenumbers import PhoneMetadata, PhoneNumberMatch

# ITU-T E.164 allows 15 digits. A text with more than 24 digits is a table of numbers.
MIN_DIGITS, MAX_DIGITS = 7, 24
DIGIT = re.compile(r"\d")
NO_DIGITS = re.compile(r"\D+")
# A national number needs separators: "4155552671" may as well be an order number.
SEPARATOR = re.compile(r"[+(]|\d[ .-]\d")
# Punctuation that PhoneNumberMatcher accepts within a number, as far as folding preserves it.
PUNCTUATION = r"[-x\u2010-\u2015\u2212\u30fc\uff0d-\uff0f \u3000()\[\]./~\u2053\u223c\uff5e]{0,4}"
CANDIDATE = re.compile(rf"\d+(?:{PUNCTUATION}\d+)*", re.IGNORECASE)
# Brackets and "+" may stand in a word before the first digit.
START = re.compile(rf"(?:[+(\[]{PUNCTUATION}){{0,2}}(?<!\d)\d", re.IGNORECASE)
# PhoneNumberMatcher also tries the text before the first of each of these signs. The last one
# begins an extension.
INNER_ENDS = tuple(
    re.compile(sign, re.IGNORECASE)
    for sign in (r"/", r"\(", r"\s-|-\s", r"[\u2012-\u2015\uff0d]", r"\.", r"\s", r"[x~]")
)
# Descriptions of the numbers that `phonenumbers.is_valid_number` accepts.
FORMS = (
    "fixed_line mobile toll_free premium_rate shared_cost personal_number voip pager uan voicemail"
).split()
LONGEST_COUNTRY_CODE = 3


def phone_numbers(text: str, region: str, before: int) -> Iterator[PhoneNumberMatch]:
    """Yield the phone numbers with punctuation or a country code that start before a position.

    Args:
        text: folded text.
        region: country whose numbers are detected without a country code.
        before: end of the first word.
    """
    if not MIN_DIGITS <= len(DIGIT.findall(text)) <= MAX_DIGITS:
        return
    starts = takewhile(lambda start: start.start() < before, START.finditer(text))
    if not any(_may_start(text, start, region) for start in starts):
        return
    matcher = phonenumbers.PhoneNumberMatcher(text, region, leniency=phonenumbers.Leniency.VALID)
    for match in matcher:
        if match.start >= before:
            return
        if SEPARATOR.search(match.raw_string):
            yield match


def _may_start(text: str, start: re.Match[str], region: str) -> bool:
    """Return True if the digits of a part of `text` from `start` on are a valid number."""
    found = CANDIDATE.match(text, start.end() - 1)
    candidate = found[0] if found else ""
    digits = NO_DIGITS.sub("", candidate)
    counts = {len(digits)}
    for sign in INNER_ENDS:
        if end := sign.search(candidate):
            counts.add(len(NO_DIGITS.sub("", candidate[: end.start()])))
    national, has_plus = _national_number(region), "+" in start[0]
    return any(
        national.fullmatch(digits, 0, count) or (has_plus and _is_international(digits[:count]))
        for count in counts
    )


def _is_international(digits: str) -> bool:
    for length in range(1, min(LONGEST_COUNTRY_CODE, len(digits)) + 1):
        code = int(digits[:length])
        if regions := phonenumbers.COUNTRY_CODE_TO_REGION_CODE.get(code):
            return bool(_valid_number(code, regions[0]).fullmatch(digits, length))
    return False


@lru_cache(maxsize=256)
def _national_number(region: str) -> re.Pattern[str]:
    """Return the pattern of numbers without "+"; any number may follow a prefix for abroad."""
    metadata = PhoneMetadata.metadata_for_region(region)
    if metadata is None:
        return re.compile(r"(?!)")
    code, abroad = metadata.country_code, metadata.international_prefix or "(?!)"
    valid = _valid_number(code, region).pattern
    return re.compile(rf"(?:{abroad})\d+|(?:{code})?{valid}")


@lru_cache(maxsize=512)
def _valid_number(country_code: int, region: str) -> re.Pattern[str]:
    """Return the pattern of all valid numbers of a country code, with or without the prefix for
    calls within a region.
    """
    prefix = _metadata(country_code, region).national_prefix_for_parsing
    if prefix and ("(" in prefix or _metadata(country_code, region).national_prefix_transform_rule):
        # The prefix contains a carrier, or is replaced; only phonenumbers knows the number.
        return re.compile(r"\d+")
    patterns: dict[str, None] = {}
    for each in phonenumbers.COUNTRY_CODE_TO_REGION_CODE[country_code]:
        for form in FORMS:
            description = getattr(_metadata(country_code, each), form)
            if description is not None and description.national_number_pattern:
                patterns[description.national_number_pattern] = None
    before = f"(?:{prefix}){{0,3}}" if prefix else ""
    return re.compile(rf"{before}(?:{'|'.join(patterns)})")


def _metadata(country_code: int, region: str) -> PhoneMetadata:
    metadata = PhoneMetadata.metadata_for_region_or_calling_code(country_code, region)
    if metadata is None:
        raise ValueError(f"no phone numbers of {region}")
    return metadata
