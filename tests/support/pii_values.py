"""Synthetic values of personal data with valid check digits, and values that only look alike.

No value comes from a person. Domains and addresses are those reserved for documentation (RFC 2606,
5737, 3849), telephone numbers are the examples of libphonenumber or ranges for fiction, cards are
the test numbers of processors. Dates of birth lie between 1900 and 1909. Other digits are random.
"""

from __future__ import annotations

import importlib
import random
import string
from collections.abc import Callable

import phonenumbers
from stdnum import iban

FIRST = "anna jonas maria lee omar petra luis wei ines tomas aiko john sofia emil noor".split()
LAST = "keller smith rossi garcia novak tanaka dubois silva jansen kowalski berg yilmaz".split()
DOMAINS = "example.com example.org example.net mail.example.com uni.example.org".split()
# Published by payment processors for tests.
CARDS = (
    "4111111111111111 4242424242424242 4012888888881881 5555555555554444 5105105105105100 "
    "2223003122003222 378282246310005 371449635398431 6011111111111117 6011000990139424 "
    "30569309025904 38520000023237 3530111333300000 3566002020360505 6200000000000005"
).split()
# Countries with the part after the check digits; "#" is a digit. Those with check digits inside are
# the examples of SWIFT's registry.
IBANS = {
    "DE": "37040044##########",
    "GB": "NWBK601613########",
    "FR": "30006000011234567890189",
    "ES": "21000418450200051332",
    "IT": "X0542811101000000123456",
    "NL": "ABNA04########",
    "BE": "539007547034",
    "CH": "00762############",
    "AT": "19043002########",
    "PL": "109010140000071219812874",
    "PT": "000201231234567890154",
    "SE": "50000000058398257466",
    "NO": "86011117947",
    "DK": "00400440116243",
    "IE": "AIBK931152########",
    "TR": "0006100519786457841326",
}
# Ranges for fiction, which libphonenumber accepts: NANPA 555-01xx, Ofcom, Bundesnetzagentur, ARCEP,
# ACMA.
PHONES = {
    "US": ("(202) 555-01##", "415-555-01##", "312.555.01##", "(617)555-01##", "206 555 01##"),
    "GB": ("020 7946 0###", "0161 496 0###", "(0113) 496 0###", "0121 496 0###"),
    "DE": ("030 23125 ###", "040/66969###", "(089) 99998 ###", "030-23125###"),
    "FR": ("01 99 00 ## ##", "01.99.00.##.##", "02 61 91 ## ##"),
    "AU": ("(02) 5550 ####", "0491 570 006", "03 7010 ####"),
}
ABROAD = {
    "US": ("+1 202-555-01##", "+1 (415) 555-01##", "+120255501##", "001 312 555 01##"),
    "GB": ("+44 20 7946 0###", "+44 (0)161 496 0###", "+442079460###"),
    "DE": ("+49 30 23125 ###", "+49 (0)40 66969 ###", "+493023125###", "0049 30 23125###"),
    "FR": ("+33 1 99 00 ## ##", "+33 (0)1 99 00 ## ##", "+331990012##"),
    "AU": ("+61 2 5550 ####", "+61 491 570 006"),
}
# A module of stdnum, and the written shape: "#" digit, "?" letter.
IDS = {
    "US": ("us.ssn", "###-##-####"),
    "DE": ("de.idnr", "## ### ### ###"),
    "FR": ("fr.nir", "1 0# 0# ## ### ### ##"),
    "ES": ("es.dni", "000#####?"),
    "ES-NIE": ("es.nie", "X00#####?"),
    "NL": ("nl.bsn", "#########"),
    "PL": ("pl.pesel", "0#0#1######"),
    "BR": ("br.cpf", "###.###.###-##"),
    "IN": ("in_.aadhaar", "9999 #### ####"),
    "CN": ("cn.ric", "110101190#0#1#####"),
    "SE": ("se.personnummer", "190#0#1#-####"),
    "NO": ("no.fodselsnummer", "1#0#0# #####"),
    "FI": ("fi.hetu", "1#0#0#-###?"),
    "DK": ("dk.cpr", "1#0#0#-####"),
    "BE": ("be.nn", "0#.0#.1#-###.##"),
    "CH": ("ch.ssn", "756.####.####.##"),
    "CZ": ("cz.rc", "0#0#1#/###"),
    "CA": ("ca.sin", "### ### ###"),
    "TR": ("tr.tckimlik", "###########"),
    "KR": ("kr.rrn", "0#0#1#-1######"),
    "ZA": ("za.idnr", "0#0#1########"),
    "RO": ("ro.cnp", "10#0#1#######"),
    "CL": ("cl.rut", "1#.###.###-#"),
    "PT": ("pt.nif", "2########"),
}


def fill(shape: str, rng: random.Random) -> str:
    """Replace each "#" of a shape by a digit and each "?" by a capital letter."""
    drawn = {"#": string.digits, "?": string.ascii_uppercase}
    return "".join(rng.choice(drawn[c]) if c in drawn else c for c in shape)


def mail(rng: random.Random) -> str:
    """Return an address at a domain for documentation."""
    name = rng.choice(
        ("{f}.{l}", "{f}{n}", "{f}_{l}", "{f}.{l}+news", "{l}-{n}", "{F}.{L}", "{f}", "info")
    )
    first, last = rng.choice(FIRST), rng.choice(LAST)
    local = name.format(f=first, l=last, n=rng.randrange(10, 99), F=first.title(), L=last.title())
    return f"{local}@{rng.choice(DOMAINS)}"


def phone(region: str, rng: random.Random, abroad: bool = False) -> str:
    """Return a telephone number as written in a country, or as dialled from abroad."""
    if region in PHONES:
        return fill(rng.choice((ABROAD if abroad else PHONES)[region]), rng)
    kinds = (phonenumbers.PhoneNumberType.FIXED_LINE, phonenumbers.PhoneNumberType.MOBILE)
    number = phonenumbers.example_number_for_type(region, rng.choice(kinds))
    assert number is not None
    formats = phonenumbers.PhoneNumberFormat
    written = phonenumbers.format_number(
        number, formats.INTERNATIONAL if abroad else formats.NATIONAL
    )
    return str(written).replace(" ", rng.choice((" ", " ", " ", "-")))


def account(country: str, rng: random.Random) -> str:
    """Return an IBAN with valid check digits."""
    compact = country + "00" + fill(IBANS[country], rng)
    compact = country + iban.calc_check_digits(compact) + compact[4:]
    groups = " ".join(compact[i : i + 4] for i in range(0, len(compact), 4))
    return rng.choice((compact, groups))


def card(rng: random.Random) -> str:
    """Return a card number for tests, with or without separators."""
    number = rng.choice(CARDS)
    sizes = {15: (4, 6, 5), 14: (4, 6, 4)}.get(len(number), (4, 4, 4, 4))
    parts, start = [], 0
    for size in sizes:
        parts.append(number[start : start + size])
        start += size
    return rng.choice(("", " ", "-", " ")).join(parts)


def national_id(country: str, rng: random.Random) -> str:
    """Return an identifier with valid check digits."""
    if country == "GB":
        pair = rng.choice(("AB", "CE", "JR", "NL", "SX", "WK"))
        return pair + fill(rng.choice((" ## ## ## ", "######")), rng) + rng.choice("ABCD")
    if country == "IT":
        module = importlib.import_module("stdnum.it.codicefiscale")
        start = fill("RSSMRA0#", rng) + rng.choice("ABCDEHLMPRST") + fill("1#H501", rng)
        return start + str(module.calc_check_digit(start))
    if country == "MX":
        module = importlib.import_module("stdnum.mx.curp")
        start = fill("HEGG0#0", rng) + rng.choice("123456789") + fill("1#MVZRRL0", rng)
        return start + str(module.calc_check_digit(start))
    name, shape = IDS[country]
    is_valid: Callable[[str], bool] = importlib.import_module(f"stdnum.{name}").is_valid
    while True:
        value = fill(shape, rng)
        if is_valid(value):
            return value


def look_alike(name: str, rng: random.Random) -> str:
    """Return a value of the given name that is no personal data."""
    hexadecimal = "0123456789abcdef"
    digits = fill("9780########", rng)
    odd = sum(int(d) * (1 if i % 2 == 0 else 3) for i, d in enumerate(digits))
    shapes = {
        "version": ("#.#.##", "#.##.##.#", "v#.#.#", "1#.#.##-rc#", "2#.0#.#.##"),
        "time": ("1#:2#", "0#:4#:1#", "1#:3#:0#.###", "2#:0#–2#:3#"),
        "date": ("202#-0#-1#", "1#.0#.202#", "0#/1#/202#", "202#0#1#", "19##-20##"),
        "score": ("#–#", "2#:1#", "6-4, 7-5, 6-3", "10#-9#", "25-##, 2#-25"),
        "order": ("#######", "4##-#######-#######", "A-######", "#########", "##########"),
        "sum": ("$1,2##,###.##", "1#.###.###,## €", "##,###,###", "0.##########"),
        "size": ("1920x1080", "3840×2160", "#### x ####", "##,### x ##,###"),
        "section": ("#.#.#.#", "1.#.#", "1#.2.3.#"),
        "tracking": ("1Z999AA1##########", "RR#########DE", "JD01460000########"),
        "stamp": ("17########", "17###########", "202#-0#-1#T0#:2#:3#.######Z"),
        "oid": ("1.3.6.1.4.1.####.#.#", "2.16.840.1.######"),
        "doi": ("10.1###/j.####.202#.######", "arXiv:2#0#.#####"),
        "range": ("1914-1918", "100-200-300", "12-24-36", "10–20–30"),
        "decimals": ("3.14159265358979", "2.718281828", "48.85##, 2.35##", "-122.41####"),
        "mac": ("00:1b:44:11:3a:b#", "3c:22:fb:##:##:##"),
        "fraction": ("###/###", "2##/100", "1#/2#/3#"),
    }
    if name == "isbn":
        check = str(-odd % 10)
        joined = digits + check
        return rng.choice((joined, f"{digits[:3]}-{digits[3]}-{digits[4:7]}-{digits[7:]}-{check}"))
    if name == "hash":
        return "".join(rng.choice(hexadecimal) for _ in range(rng.choice((7, 12, 32, 40, 64))))
    if name == "uuid":
        return "-".join(
            "".join(rng.choice(hexadecimal) for _ in range(n)) for n in (8, 4, 4, 4, 12)
        )
    if name == "lan":
        return fill(rng.choice(("192.168.1.1#", "10.0.0.#", "172.16.0.#", "127.0.0.1")), rng)
    return fill(rng.choice(shapes[name]), rng)
