"""Detection of secrets and personal data in a text.

Secrets are those of `secret_detection`.

Personal data are e-mail addresses, phone numbers, payment cards, IBANs, and US social security
numbers. Numbers must pass their checksum (Luhn, mod 97) or the numbering plan, so that version
numbers, sums and dates are not detected.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile

from secret_detection.finding import Secret, SecretForm, find_known_secrets, find_secrets
from services.guardrail.detection.phones import DIGIT, phone_numbers
from services.guardrail.detection.phones import MIN_DIGITS as MIN_PHONE_DIGITS
from services.guardrail.verdict import Category


@dataclass(frozen=True)
class Span:
    """Characters `start` to `end` (exclusive), replaced by `replacement`."""

    start: int
    end: int
    category: Category
    replacement: str


REPLACEMENTS = {
    SecretForm.KEY: "[secret removed]",
    SecretForm.PASSWORD: "[password removed]",
    SecretForm.PRIVATE_KEY: "[private key removed]",
}


def secret_spans(text: str) -> Iterator[Span]:
    """Yield all secrets of a text in no particular order; spans may overlap."""
    # All forms contain letters. Most windows of lists and tables have none.
    if LETTER.search(text):
        yield from (_secret_span(text, secret) for secret in find_secrets(text))


def known_secret_spans(text: str) -> Iterator[Span]:
    """Yield the keys and tokens with a known form."""
    return (_secret_span(text, secret) for secret in find_known_secrets(text))


def _secret_span(text: str, secret: Secret) -> Span:
    # Starts at the label, because the hold-back assigns a span to the word in which the span
    # starts. The replacement repeats the label.
    label = text[secret.label_start : secret.start]
    return Span(secret.label_start, secret.end, Category.SECRET, label + REPLACEMENTS[secret.form])


EMAIL_REPLACEMENT = "[e-mail address removed]"
PHONE_REPLACEMENT = "[phone number removed]"
CARD_REPLACEMENT = "[card number removed]"
IBAN_REPLACEMENT = "[IBAN removed]"
SSN_REPLACEMENT = "[social security number removed]"

# Characters of scripts with spaces between words (Latin to Armenian). Chinese and Japanese
# characters stand directly before and after an address.
WORD = r"A-Za-z0-9_\u00c0-\u058f"
# Not after "/", and not git@host, which names a service.
EMAIL = re.compile(
    rf"(?<![{WORD}.+/-])(?!git@)[A-Za-z0-9][{WORD}.+%-]{{0,63}}@"
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,62})\.){1,8}[A-Za-z]{2,24}"
    rf"(?![{WORD}-])"
)
# "mailto:" and "e-mail:" stand before an address, "https://user:" before a password and a host.
URL_USER = re.compile(r"//[^\s/:@]{1,64}:[^\s/@]{0,64}$")
URL_USER_CHARACTERS = 131
# Endings of file names such as logo@2x.png, none of which is a top-level domain.
FILE_ENDINGS = frozenset(
    "png jpg jpeg gif svg webp bmp ico tif tiff js css html htm json xml txt pdf yaml yml "
    "toml".split()
)
# Matched by lookahead at every position, because an adjacent number must not hide a card number:
# "in 2024 4111 1111 …".
# Issuers use no numbers below 22, so that a list of years is no card number.
CARD = re.compile(
    r"(?<![\w.-])(?=((?:2[2-9]|[3-6]\d)\d\d(?:(?: {1,3}|-)?\d){8,15}"
    # Dots and underscores only between the groups of a card, since they also divide other numbers.
    r"|[2-6]\d{3}([._])\d{4}\2\d{4}\2\d{4}(?!\d)|3\d{3}([._])\d{6}\3\d{5}(?!\d)))"
)
IBAN = re.compile(r"(?<!\w)(?=([A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}))", re.IGNORECASE)
SSN = re.compile(r"(?<![\w.-])(?!000|666|9)\d{3}([-. ])(?!00)\d{2}\1(?!0000)\d{4}(?![\w-]|[.]\d)")
LETTER = re.compile("[A-Za-z]")
CARD_LENGTHS = (19, 16, 15, 14, 13)
# Length of an IBAN by country (IBAN registry of SWIFT).
IBAN_LENGTHS = {
    country: int(length)
    for length, countries in (
        entry.split(":")
        for entry in [
            "15:NO",
            "16:BE",
            "18:DK,FI,FO,GL,NL",
            "19:MK,SI",
            "20:AT,BA,EE,KZ,LT,LU,XK",
            "21:CH,HR,LI,LV",
            "22:BG,BH,CR,DE,GB,GE,IE,ME,RS",
            "23:AE,IL,IQ,TL",
            "24:AD,CZ,ES,MD,PK,RO,SA,SE,SK,TN,VA",
            "25:PT",
            "26:IS,TR",
            "27:FR,GR,IT,MC,SM",
            "28:AL,AZ,CY,DO,GT,HU,LB,PL",
            "29:BR,EG,PS,QA,UA",
            "30:JO,KW,MU",
            "31:MT",
        ]
    )
    for country in countries.split(",")
}


def personal_spans(text: str, phone_region: str, before: int | None = None) -> Iterator[Span]:
    """Yield the personal data of a text in no particular order; spans may overlap.

    Args:
        text: folded text.
        phone_region: country whose phone numbers are detected without a country prefix.
        before: end of the positions at which a span may start; default: of the text.
    """
    if before is None:
        before = len(text)
    if "@" in text:
        for found in _starting(EMAIL, text, before):
            lead = text[max(0, found.start() - URL_USER_CHARACTERS) : found.start()]
            ending = found[0].rpartition(".")[2].casefold()
            if URL_USER.search(lead) or ending in FILE_ENDINGS:
                continue
            yield Span(found.start(), found.end(), Category.PII, EMAIL_REPLACEMENT)
    if len(DIGIT.findall(text)) < MIN_PHONE_DIGITS:
        return
    for found in _starting(CARD, text, before):
        if length := _card_length(found[1]):
            yield Span(found.start(), found.start() + length, Category.PII, CARD_REPLACEMENT)
    if LETTER.search(text):
        for found in _starting(IBAN, text, before):
            if length := _iban_length(found[1]):
                yield Span(found.start(), found.start() + length, Category.PII, IBAN_REPLACEMENT)
    for found in _starting(SSN, text, before):
        yield Span(found.start(), found.end(), Category.PII, SSN_REPLACEMENT)
    for match in phone_numbers(text, phone_region, before):
        yield Span(match.start, match.end, Category.PII, PHONE_REPLACEMENT)


def _starting(pattern: re.Pattern[str], text: str, before: int) -> Iterator[re.Match[str]]:
    return takewhile(lambda found: found.start() < before, pattern.finditer(text))


def _card_length(run: str) -> int:
    """Return the length of the card number at the start of digits and separators, or 0."""
    positions = [position for position, letter in enumerate(run) if letter.isdigit()]
    for digits in CARD_LENGTHS:
        # A card number is not followed directly by another digit.
        if len(positions) < digits or (
            len(positions) > digits and positions[digits] == positions[digits - 1] + 1
        ):
            continue
        end = positions[digits - 1] + 1
        if luhn_holds(re.sub(r"\D", "", run[:end])):
            return end
    return 0


def _iban_length(run: str) -> int:
    """Return the length of the IBAN at the start of letters, digits and spaces, or 0."""
    positions = [position for position, letter in enumerate(run) if letter != " "]
    characters = IBAN_LENGTHS.get(run[:2].upper(), len(positions) + 1)
    if len(positions) < characters:
        return 0
    end = positions[characters - 1] + 1
    return end if iban_holds(run[:end]) else 0


def luhn_holds(digits: str) -> bool:
    """Check the Luhn digit of a payment card number (ISO/IEC 7812-1)."""
    doubled = [int(digit) * (1 + index % 2) for index, digit in enumerate(reversed(digits))]
    return sum(value - 9 if value > 9 else value for value in doubled) % 10 == 0


def iban_holds(text: str) -> bool:
    """Check the check digits of an IBAN (ISO 13616, mod 97)."""
    compact = text.replace(" ", "")
    return int("".join(str(int(letter, 36)) for letter in compact[4:] + compact[:4])) % 97 == 1
