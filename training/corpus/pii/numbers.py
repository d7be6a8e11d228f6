"""Detection of cards, bank accounts and national identifiers in the parts of a text with digits."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from stdnum import iban, luhn
from stdnum.es import ccc
from stdnum.us import rtn

from training.corpus.pii.identifiers import BEGINNING, IDENTIFIERS, compiled
from training.corpus.pii.kinds import Kind, Span
from training.corpus.pii.labels import (
    ACCOUNT,
    BANK,
    NOT_CONTINUED,
    NOT_INSIDE,
    OTHER,
    PHONE,
    ROUTING,
    SORT_CODE,
    WORD_CHARACTERS,
    labels_before,
)

# Six digits with at most six other characters between two of them: each kind of number has them,
# and prose with years only does not.
DENSE = re.compile(r"[0-9](?:[^0-9\n]{0,6}[0-9]){5,}+")
DIGIT = re.compile("[0-9]")
# Letters of an IBAN, codice fiscale or CURP before its first and after its last digit.
LEFT_EXTENSION, RIGHT_EXTENSION = 8, 24
# Fewest digits of an IBAN (Netherlands: 12), a card, a telephone number.
MIN_LONG_DIGITS, MIN_PHONE_DIGITS = 12, 7


class Part(NamedTuple):
    """Part of a text that may contain numbers of persons, with its number of digits."""

    start: int
    end: int
    digits: int


# By lookahead at each position, because another number may stand before it: "in 2024 4111 …".
CARD_NUMBER = re.compile(
    rf"[2-6]{NOT_INSIDE}"
    r"(?=(\d{3}([ -]?)\d{4}\2\d{4}\2\d{4}(?:\2\d{3})?|(?<=3)\d{3}([ -]?)\d{6}\3\d{4,5})"
    rf"{NOT_CONTINUED})"
)
IBAN = re.compile(
    rf"[A-Za-z](?<![{WORD_CHARACTERS}].)(?=([A-Za-z]\d{{2}}(?:[ -]?[A-Za-z0-9]){{11,30}}))"
)
ACCOUNT_NUMBER = re.compile(rf"\d{NOT_INSIDE}(?:[ -]?\d){{5,19}}{NOT_CONTINUED}")
SORT_CODE_SHAPE = re.compile(r"\d\d([ -])\d\d\1\d\d")
SPANISH_ACCOUNT = re.compile(r"\d{4}([ -]?)\d{4}\1\d{2}\1\d{10}")
# Evidence that an "account" is one of a bank, within this distance.
BANKING = re.compile(
    r"bank|routing|\baba\b|sort code|\bblz\b|\bbic\b|swift|\biban\b|\bwire|deposit|transfer|"
    r"überweis|virement|bonifico|przelew|checking|savings|payee|beneficiary|\bbsb\b|\bifsc\b",
    re.IGNORECASE,
)
BANKING_DISTANCE = 120
# Digits by country (SWIFT's registry of IBANs, release 99).
IBAN_LENGTHS = {
    country: int(length)
    for length, countries in (
        entry.split(":")
        for entry in (
            "15:NO 16:BE 18:DK,FI,FK,FO,GL,NL,SD 19:MK,SI 20:AT,BA,EE,KZ,LT,LU,MN,XK "
            "21:CH,HR,LI,LV 22:BG,BH,CR,DE,GB,GE,IE,ME,RS,VA 23:AE,GI,IL,IQ,OM,SO,TL "
            "24:AD,CZ,ES,MD,PK,RO,SA,SE,SK,TN,VG 25:LY,PT,ST 26:IS,TR 27:BI,DJ,FR,GR,IT,MC,MR,SM "
            "28:AL,AZ,BY,CY,DO,GT,HN,HU,LB,NI,PL,SV 29:BR,EG,PS,QA,UA 30:JO,KW,MU,YE 31:MT,SC "
            "32:LC 33:RU"
        ).split()
    )
    for country in countries.split(",")
}


def parts_with_digits(text: str) -> list[Part]:
    """Return the parts of a text with many digits, extended to whole numbers, in order."""
    found: list[Part] = []
    for dense in DENSE.finditer(text):
        start, end = max(0, dense.start() - LEFT_EXTENSION), dense.end() + RIGHT_EXTENSION
        digits = len(DIGIT.findall(dense[0]))
        if found and start <= found[-1].end:
            start, _, before = found.pop()
            digits += before
        found.append(Part(start, min(end, len(text)), digits))
    return found


def find_ibans(text: str, part: Part) -> Iterator[Span]:
    """Yield IBANs in a part of a text."""
    end = 0
    for found in IBAN.finditer(text, part.start, part.end):
        run = found[0] + found[1]
        characters = IBAN_LENGTHS.get(run[:2].upper(), 0)
        positions = [position for position, letter in enumerate(run) if letter not in " -"]
        if found.start() < end or not characters or len(positions) < characters:
            continue
        length = positions[characters - 1] + 1
        is_whole = length == len(run) or run[length] in " -"
        # The check of the bank's part uses lists of banks, which age.
        if is_whole and iban.is_valid(run[:length], check_country=False):
            end = found.start() + length
            yield Span(found.start(), end, Kind.IBAN, iban.compact(run[:length]))


def find_cards(text: str, part: Part) -> Iterator[Span]:
    """Yield numbers of payment cards in a part of a text."""
    end = 0
    for found in CARD_NUMBER.finditer(text, part.start, part.end):
        start = found.start()
        digits = re.sub("[ -]", "", found[0] + found[1])
        if start < end or not luhn.is_valid(digits) or not _is_issued(digits):
            continue
        if {OTHER, PHONE}.isdisjoint(labels_before(text, start)) and not in_url(text, start):
            end = found.end(1)
            yield Span(start, end, Kind.CARD, digits)


def find_bank_accounts(text: str, part: Part) -> Iterator[Span]:
    """Yield numbers of banks' accounts, routing numbers and sort codes in a part of a text."""
    for found in ACCOUNT_NUMBER.finditer(text, part.start, part.end):
        labels = labels_before(text, found.start())
        if ROUTING in labels:
            is_account = rtn.is_valid(found[0])
        elif SORT_CODE in labels:
            is_account = SORT_CODE_SHAPE.fullmatch(found[0]) is not None
        elif BANK in labels:
            is_account = True
        elif ACCOUNT in labels:
            left = max(0, found.start() - BANKING_DISTANCE)
            around = BANKING.search(text, left, found.end() + BANKING_DISTANCE)
            is_account = around is not None
        else:
            is_account = SPANISH_ACCOUNT.fullmatch(found[0]) is not None and ccc.is_valid(found[0])
        if is_account:
            yield _digits_span(found, Kind.BANK_ACCOUNT)


def _is_issued(digits: str) -> bool:
    """Check prefix and length of a card (ISO/IEC 7812; ranges as published by the networks)."""
    four, length = int(digits[:4]), len(digits)
    if digits[0] == "4":  # Visa
        return length in (16, 19)
    if 5100 <= four <= 5599 or 2221 <= four <= 2720:  # Mastercard
        return length == 16
    if digits[:2] in ("34", "37"):  # American Express
        return length == 15
    if 3000 <= four <= 3059 or digits[:2] in ("36", "38", "39"):  # Diners Club
        return length == 14
    return (
        (
            four == 6011  # Discover
            or 6440 <= four <= 6599  # Discover
            or 3528 <= four <= 3589  # JCB
            or 2200 <= four <= 2204  # Mir
            or digits[:2] in ("62", "81")  # UnionPay
            or four in (5018, 5020, 5038, 5893, 6304, 6759, 6761, 6762, 6763)  # Maestro
        )
        and 16 <= length <= 19
    )


def find_national_ids(text: str, part: Part, home: str) -> Iterator[Span]:
    """Yield national identifiers in a part of a text.

    Args:
        home: country whose identifiers need no label; "" for none.
    """
    for beginning in BEGINNING.finditer(text, part.start, part.end):
        start = beginning.start()
        labels = labels_before(text, start)
        for identifier in IDENTIFIERS:
            if (
                identifier.has_evidence(home, labels)
                and (found := compiled(identifier).match(text, start))
                and identifier.holds(found[0])
                and not in_url(text, start)
            ):
                yield _digits_span(found, Kind.NATIONAL_ID)


def in_url(text: str, start: int) -> bool:
    """Return True if a position belongs to a URL, whose numbers are names of pages."""
    left = text[max(0, start - 200) : start]
    return "://" in left[max(map(left.rfind, " \n\t")) + 1 :]


def _digits_span(found: re.Match[str], kind: Kind) -> Span:
    return Span(*found.span(), kind, re.sub(r"[^0-9A-Z]", "", found[0].upper()))
