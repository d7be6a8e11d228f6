"""Detection of secrets in a text.

Detected are private keys, keys and tokens with known prefixes, labelled values, Bearer values, and
passwords in URLs. The prefixes are documented by their issuers for secret scanning. A labelled
value must also look random.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator

from services.guardrail.detection.spans import Span
from services.guardrail.verdict import Category

KEY = "[secret removed]"
PASSWORD = "[password removed]"  # noqa: S105 - a replacement text
PRIVATE_KEY = "[private key removed]"

KNOWN = re.compile(
    r"""(?<![A-Za-z0-9])(?:
      (?:AKIA|ASIA|AROA|AIDA)[A-Z2-7]{16}                # AWS
    | gh[pousr]_[A-Za-z0-9]{30,} | github_pat_\w{22,}    # GitHub
    | glpat-[\w-]{20,}                                   # GitLab
    | sk-(?:proj-|ant-|or-|svcacct-|live-)?[\w-]{20,}    # OpenAI, Anthropic, OpenRouter
    | [rsp]k_(?:live|test)_[A-Za-z0-9]{16,} | whsec_[A-Za-z0-9]{24,}   # Stripe
    | xox[abeoprs]-[A-Za-z0-9-]{10,} | xapp-[A-Za-z0-9-]{20,}          # Slack
    | AIza[\w-]{35} | ya29\.[\w-]{20,}                   # Google
    | hf_[A-Za-z0-9]{30,} | tw_[A-Za-z0-9_-]{24,}        # Hugging Face, Thumbwheel's own keys
    | npm_[A-Za-z0-9]{36} | pypi-[\w-]{50,}              # package registries
    | SG\.[\w-]{16,}\.[\w-]{16,} | key-[0-9a-f]{32}      # SendGrid, Mailgun
    | dop_v1_[0-9a-f]{64} | shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}         # DigitalOcean, Shopify
    | hvs\.[\w-]{24,} | AGE-SECRET-KEY-1[0-9A-Z]{58}     # Vault, age
    | \d{8,10}:AA[\w-]{33}                               # Telegram
    | eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{8,}              # JSON web token
    )""",
    re.VERBOSE,
)
PEM = re.compile(r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----")
PEM_END = re.compile(r"-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----")
BEARER = re.compile(r"\b(?:bearer|basic)\s{1,3}([\w.~+/-]{16,}=*)", re.IGNORECASE)
IN_URL = re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s/:@]{1,64}:([^\s/@]{3,128})@", re.IGNORECASE)
LABELLED_PASSWORD = re.compile(
    r"(?:passw(?:or)?d|passphrase|pwd)[\"'`*]*\s{0,3}(?:[:=]|=>|\bis\b)\s{0,"
    r"3}[\"'`*]*([^\s\"'`,;()<>\[\]{}]{6,128})",
    re.IGNORECASE,
)
LABELLED_KEY = re.compile(
    r"(?:key|token|secret|credential)[\w-]{0,12}[\"'`*]*\s{0,3}(?:[:=]|=>|\bis\b)\s{0,"
    r"3}[\"'`*]*([\w+/.~-]{16,512}=*)",
    re.IGNORECASE,
)
# Lowest Shannon entropy per character of a key. At this length English words with punctuation are
# below the value, random base64 is above.
RANDOM_BITS = 3.5


def secret_spans(text: str) -> Iterator[Span]:
    """Yield all secrets of a text in no particular order; spans may overlap."""
    for found in PEM.finditer(text):
        end = PEM_END.search(text, found.end())
        yield Span(found.start(), end.end() if end else len(text), Category.SECRET, PRIVATE_KEY)
    for found in KNOWN.finditer(text):
        yield Span(found.start(), found.end(), Category.SECRET, KEY)
    for found in BEARER.finditer(text):
        if _has_letter_and_digit(found[1]):
            yield _labelled(found, KEY)
    for found in IN_URL.finditer(text):
        if not _is_placeholder(found[1]):
            yield Span(found.start(1), found.end(1), Category.SECRET, PASSWORD)
    for found in LABELLED_PASSWORD.finditer(text):
        if _has_letter_and_digit(found[1]) and not _is_placeholder(found[1]):
            yield _labelled(found, PASSWORD)
    for found in LABELLED_KEY.finditer(text):
        if _has_letter_and_digit(found[1]) and entropy_bits(found[1]) >= RANDOM_BITS:
            yield _labelled(found, KEY)


def _labelled(found: re.Match[str], replacement: str) -> Span:
    # Starts at the label, because the hold-back assigns a span to the word in which the span
    # starts. The replacement repeats the label.
    label = found[0][: found.start(1) - found.start()]
    return Span(found.start(), found.end(1), Category.SECRET, label + replacement)


def entropy_bits(text: str) -> float:
    """Return the Shannon entropy of the characters, in bits per character."""
    return -sum(
        count / len(text) * math.log2(count / len(text)) for count in Counter(text).values()
    )


def _has_letter_and_digit(value: str) -> bool:
    return any(letter.isalpha() for letter in value) and any(letter.isdigit() for letter in value)


def _is_placeholder(value: str) -> bool:
    return value.startswith(("$", "<", "{", "%")) or value.casefold().strip(".*") in (
        "",
        "password",
        "pass",
        "xxx",
    )
