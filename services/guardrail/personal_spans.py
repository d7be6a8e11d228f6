"""Finds personal data: e-mail addresses, phone numbers, payment cards, IBANs, US social security
numbers.

Numbers must pass their own check (Luhn, mod 97, the numbering plan), so version numbers, sums and
dates stay.
"""

import re
from collections.abc import Iterator

import phonenumbers

from services.guardrail.spans import Span
from services.guardrail.verdict import Category

EMAIL_SHOWN = "[e-mail address removed]"
PHONE_SHOWN = "[phone number removed]"
CARD_SHOWN = "[card number removed]"
IBAN_SHOWN = "[IBAN removed]"
SSN_SHOWN = "[social security number removed]"

# Not after "/" or ":" (a URL's user part), and not git@host, which names a service and no person.
EMAIL = re.compile(
    r"(?<![\w.+/:-])(?!git@)[A-Za-z0-9][\w.+%-]{0,63}@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,62})\.){1,8}[A-Za-z]{2,24}(?![\w-])"
)
# Looked for at every place (lookahead), since a number beside it must not hide one: "in 2024 4111
# 1111 …".
CARD = re.compile(r"(?<![\w.-])(?=([2-6]\d{3}(?:[ -]?\d){8,15}))")
IBAN = re.compile(r"(?<!\w)(?=([A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}))", re.IGNORECASE)
SSN = re.compile(r"(?<![\w.-])(?!000|666|9)\d{3}([- ])(?!00)\d{2}\1(?!0000)\d{4}(?![\w-]|[.]\d)")
DIGIT = re.compile(r"\d")
# ITU-T E.164 allows 15; beyond that and a neighbour it is a table of numbers, which would cost a
# millisecond each.
FEWEST_PHONE_DIGITS, MOST_PHONE_DIGITS = 7, 24
# A national number must be written as one: "4155552671" alone is as likely an order number.
LOOKS_DIALLED = re.compile(r"[+(]|\d[ .-]\d")
CARD_LENGTHS = (19, 16, 15, 14, 13)
# Characters of an account number by country (SWIFT's IBAN registry).
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


def personal_spans(text: str, phone_region: str) -> Iterator[Span]:
    """All personal data of a text, in no particular order, perhaps overlapping."""
    if "@" in text:
        for found in EMAIL.finditer(text):
            yield Span(found.start(), found.end(), Category.PII, EMAIL_SHOWN)
    digits = len(DIGIT.findall(text))
    if digits < FEWEST_PHONE_DIGITS:
        return
    for found in CARD.finditer(text):
        if length := _card_length(found[1]):
            yield Span(found.start(), found.start() + length, Category.PII, CARD_SHOWN)
    for found in IBAN.finditer(text):
        if length := _iban_length(found[1]):
            yield Span(found.start(), found.start() + length, Category.PII, IBAN_SHOWN)
    for found in SSN.finditer(text):
        yield Span(found.start(), found.end(), Category.PII, SSN_SHOWN)
    if digits > MOST_PHONE_DIGITS:
        return
    for match in phonenumbers.PhoneNumberMatcher(
        text, phone_region, leniency=phonenumbers.Leniency.VALID
    ):
        if LOOKS_DIALLED.search(match.raw_string):
            yield Span(match.start, match.end, Category.PII, PHONE_SHOWN)


def _card_length(run: str) -> int:
    """How many characters of a run of digits and separators are a card number; 0 for none."""
    places = [place for place, letter in enumerate(run) if letter.isdigit()]
    for digits in CARD_LENGTHS:
        if len(places) < digits or (
            len(places) > digits and places[digits] == places[digits - 1] + 1
        ):
            continue
        end = places[digits - 1] + 1
        if luhn_holds(re.sub(r"\D", "", run[:end])):
            return end
    return 0


def _iban_length(run: str) -> int:
    """How many characters of a run of letters, digits and spaces are an account number; 0 for none."""
    places = [place for place, letter in enumerate(run) if letter != " "]
    characters = IBAN_LENGTHS.get(run[:2].upper(), len(places) + 1)
    if len(places) < characters:
        return 0
    end = places[characters - 1] + 1
    return end if iban_holds(run[:end]) else 0


def luhn_holds(digits: str) -> bool:
    """The check digit of payment cards (ISO/IEC 7812-1)."""
    doubled = [int(digit) * (1 + place % 2) for place, digit in enumerate(reversed(digits))]
    return sum(value - 9 if value > 9 else value for value in doubled) % 10 == 0


def iban_holds(text: str) -> bool:
    """The check digits of account numbers (ISO 13616, mod 97)."""
    compact = text.replace(" ", "")
    return int("".join(str(int(letter, 36)) for letter in compact[4:] + compact[:4])) % 97 == 1
