"""National identifiers of persons: shapes, check digits, and the evidence that each one needs."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import Enum
from functools import cache, partial

from training.corpus.pii.labels import CARD, ID, NOT_CONTINUED, OTHER, PHONE, WORD_CHARACTERS


class Evidence(Enum):
    """Evidence besides shape and check digits.

    Attributes:
        NONE: the shape is rare and the check is strong; only a label of another thing prevents it.
        HOME: the text is from the country, or a label is present.
        LABEL: a label is present; one in eleven random numbers passes the check.
    """

    NONE = 0
    HOME = 1
    LABEL = 2


@dataclass(frozen=True)
class Identifier:
    """Rule for one spelling of an identifier.

    Args:
        country: ISO 3166 code.
        module: module of python-stdnum with the check; "" if the number has no check digit.
        shape: pattern without boundaries.
    """

    country: str
    module: str
    shape: str
    evidence: Evidence

    def holds(self, written: str) -> bool:
        """Check digits, dates and reserved ranges."""
        return not self.module or _validator(self.module)(written)

    def has_evidence(self, home: str, labels: Collection[str]) -> bool:
        """Return True if country of the text and labels suffice; see `Evidence`."""
        if f"id:{self.country}" in labels or (ID in labels and home == self.country):
            return True
        # "ID number": of any country, if the number has more than one weak check digit.
        if ID in labels and self.evidence is not Evidence.LABEL:
            return True
        if self.evidence is Evidence.LABEL or not {OTHER, PHONE, CARD}.isdisjoint(labels):
            return False
        return self.evidence is Evidence.NONE or home == self.country


NONE, HOME, LABEL = Evidence.NONE, Evidence.HOME, Evidence.LABEL
# Day and month of a date of birth.
DAY, MONTH = r"(?:0[1-9]|[12]\d|3[01])", r"(?:0[1-9]|1[0-2])"
# HMRC's manual NIM39110: unused prefixes and second letters of a National Insurance number.
NINO = r"(?!BG|GB|NK|KN|TN|NT|ZZ)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z]"
IDENTIFIERS = tuple(
    Identifier(*row)
    for row in (
        ("US", "us.ssn", r"\d{3}-\d{2}-\d{4}", NONE),
        ("US", "us.ssn", r"\d{3}[ .]?\d{2}[ .]?\d{4}", LABEL),
        # IRS, "ITIN": groups 50-65, 70-88, 90-92, 94-99; the module has those before 2011.
        ("US", "", r"9\d{2}-(?:5\d|6[0-5]|7\d|8[0-8]|9[0-24-9])-\d{4}", NONE),
        ("GB", "", rf"{NINO}(?: \d\d){{3}} [A-D]", NONE),
        ("GB", "", rf"(?i:{NINO} ?\d\d ?\d\d ?\d\d ?[A-D])", LABEL),
        ("CA", "ca.sin", r"\d{3}(?:-\d{3}-| \d{3} |\d{3})\d{3}", LABEL),
        ("AU", "au.tfn", r"\d{3}[ ]?\d{3}[ ]?\d{2,3}", LABEL),
        ("IN", "in_.aadhaar", r"[2-9]\d{3}(?:-\d{4}-| \d{4} )\d{4}", HOME),
        ("IN", "in_.aadhaar", r"[2-9]\d{11}", LABEL),
        ("IN", "in_.pan", r"[A-Z]{5}\d{4}[A-Z]", LABEL),
        ("DE", "de.idnr", r"\d{2} \d{3} \d{3} \d{3}", HOME),
        ("DE", "de.idnr", r"\d{11}", LABEL),
        ("AT", "at.vnr", rf"\d{{4}}[ -]?{DAY}{MONTH}\d\d", LABEL),
        ("CH", "ch.ssn", r"756\.\d{4}\.\d{4}\.\d{2}", NONE),
        ("CH", "ch.ssn", r"756\d{10}", LABEL),
        ("FR", "fr.nir", r"[12][ ]?\d\d[ ]?\d\d[ ]?\d[\dAB][ ]?\d{3}[ ]?\d{3}[ ]?\d\d", NONE),
        ("BE", "be.nn", rf"\d\d\.{MONTH}\.{DAY}-\d{{3}}\.\d\d", NONE),
        ("BE", "be.nn", r"\d{6}[ -]?\d{3}[ .-]?\d\d", LABEL),
        ("ES", "es.dni", r"\d{8}[ -]?[A-HJ-NP-TV-Za-hj-np-tv-z]", HOME),
        ("ES", "es.nie", r"(?i:[XYZ][ -]?\d{7}[ -]?[A-HJ-NP-TV-Z])", HOME),
        ("PT", "pt.nif", r"\d{3}[ ]?\d{3}[ ]?\d{3}", LABEL),
        ("IT", "it.codicefiscale", r"[A-Z]{6}\d\d[A-EHLMPRST]\d\d[A-Z]\d{3}[A-Z]", NONE),
        ("NL", "nl.bsn", r"\d{4}[.]?\d{2}[.]?\d{3}", LABEL),
        ("PL", "pl.pesel", r"\d{11}", LABEL),
        ("BR", "br.cpf", r"\d{3}\.\d{3}\.\d{3}-\d\d", NONE),
        ("BR", "br.cpf", r"\d{11}", LABEL),
        ("MX", "mx.curp", r"[A-Z]{4}\d{6}[HMX][A-Z]{5}[A-Z\d]\d", NONE),
        ("CL", "cl.rut", r"\d{1,2}\.\d{3}\.\d{3}-[\dK]", NONE),
        ("CL", "cl.rut", r"\d{7,8}-[\dK]", HOME),
        ("AR", "ar.cuit", r"2[0347]-\d{8}-\d", HOME),
        ("SE", "se.personnummer", rf"(?:19|20)\d\d{MONTH}{DAY}[-+]\d{{4}}", NONE),
        ("SE", "se.personnummer", rf"(?:18|19|20)?\d\d{MONTH}{DAY}\d{{4}}", LABEL),
        ("SE", "se.personnummer", rf"\d\d{MONTH}{DAY}[-+]\d{{4}}", HOME),
        ("NO", "no.fodselsnummer", rf"[0-7]\d{MONTH}\d\d[ ]?\d{{5}}", HOME),
        ("DK", "dk.cpr", rf"{DAY}{MONTH}\d\d-?\d{{4}}", LABEL),
        ("FI", "fi.hetu", rf"{DAY}{MONTH}\d\d[-+A-FU-Y]\d{{3}}[\dA-FHJ-NPR-Y]", NONE),
        ("EE", "ee.ik", rf"[1-6]\d\d{MONTH}{DAY}\d{{4}}", LABEL),
        ("LT", "lt.asmens", rf"[1-6]\d\d{MONTH}{DAY}\d{{4}}", LABEL),
        ("RO", "ro.cnp", rf"[1-8]\d\d{MONTH}{DAY}\d{{6}}", HOME),
        ("BG", "bg.egn", r"\d{10}", LABEL),
        ("CZ", "cz.rc", r"\d{6}/\d{3,4}", HOME),
        ("SK", "cz.rc", r"\d{6}/\d{3,4}", HOME),
        ("GR", "gr.amka", rf"{DAY}{MONTH}\d{{7}}", LABEL),
        ("HR", "hr.oib", r"\d{11}", LABEL),
        ("IE", "ie.pps", r"\d{7}[A-W][ABWTX]?", LABEL),
        ("TR", "tr.tckimlik", r"[1-9]\d{10}", LABEL),
        ("IL", "il.idnr", r"\d{9}", LABEL),
        ("ZA", "za.idnr", rf"\d\d{MONTH}{DAY}[ ]?\d{{4}}[ ]?[012]\d\d", HOME),
        ("KR", "kr.rrn", rf"\d\d{MONTH}{DAY}-[1-8]\d{{6}}", NONE),
        # Numbers since October 2020 have no check digit.
        ("KR", "", rf"\d\d{MONTH}{DAY}-?[1-8]\d{{6}}", LABEL),
        ("CN", "cn.ric", rf"[1-8]\d{{5}}(?:19|20)\d\d{MONTH}{DAY}\d{{3}}[\dXx]", NONE),
    )
)


# Positions at which a shape begins. The search for it is one pass instead of one for each rule.
BEGINNING = re.compile(
    rf"(?=[0-9A-Za-z])(?<![{WORD_CHARACTERS}.])(?<![{WORD_CHARACTERS}][-/])"
    rf"(?=(?:{'|'.join(i.shape for i in IDENTIFIERS)}){NOT_CONTINUED})"
)


@cache
def compiled(identifier: Identifier) -> re.Pattern[str]:
    """Return the pattern of a rule, to be matched at a beginning."""
    return re.compile(f"(?:{identifier.shape}){NOT_CONTINUED}")


@cache
def _validator(module: str) -> Callable[[str], bool]:
    found: Callable[..., bool] = importlib.import_module(f"stdnum.{module}").is_valid
    # Hospitals give temporary identifiers to patients without one.
    return partial(found, allow_temporary=True) if module == "fi.hetu" else found
