"""Detection of secrets: private keys, keys and tokens with known prefixes, labelled values.

The patterns are those of the guardrail (services/guardrail/detection/spans.py), which replaces
secrets in answers; a test compares them. The prefixes are documented by their issuers for secret
scanning. A labelled value must also look random.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator

from training.corpus.pii.kinds import Kind, Span

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
    | eyJ[\w-]{8,1024}\.eyJ[\w-]{8,}\.[\w-]{8,}              # JSON web token
    )""",
    re.VERBOSE,
)
PEM = re.compile(r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----")
PEM_END = re.compile(r"-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----")
BEARER = re.compile(r"\b(?:bearer|basic)\s{1,3}([\w.~+/-]{16,}=*)", re.IGNORECASE)
IN_URL = re.compile(r"\b[a-z][a-z0-9+.-]{0,31}://[^\s/:@]{1,64}:([^\s/@]{3,128})@", re.IGNORECASE)
# English, German, Spanish (folded, without a tilde), Portuguese, French (mot de passe).
PASSWORD_LABEL = (
    "(?:passw(?:or)?[dt]|passphrase|pwd|kennwort|contrasena|senha"  # noqa: S105
    # Not within a word such as "impasse".
    "|(?<![A-Za-z])(?:motde)?passe)"
)
LABELLED_PASSWORD = re.compile(
    rf"{PASSWORD_LABEL}[\"'`*]*\s{{0,3}}(?:[:=]|=>|\bis\b)\s{{0,3}}"
    r"[\"'`*]*([^\s\"'`,;()<>\[\]{}]{6,128})",
    re.IGNORECASE,
)
LABELLED_KEY = re.compile(
    r"(?:key|token|secret|credential)[\w-]{0,12}[\"'`*]*\s{0,3}(?:[:=]|=>|\bis\b)\s{0,"
    r"3}[\"'`*]*([\w+/.~-]{16,512}=*)",
    re.IGNORECASE,
)
# Lowest Shannon entropy per character of a key, in bits. At this length English words with
# punctuation are below the value, random base64 is above.
RANDOM_BITS = 3.5


def find_secrets(text: str) -> Iterator[Span]:
    """Yield the secrets of a text; of labelled values without the label."""
    for found in PEM.finditer(text):
        end = PEM_END.search(text, found.end())
        yield _span(text, found.start(), end.end() if end else len(text))
    for found in KNOWN.finditer(text):
        yield _span(text, *found.span())
    for found in BEARER.finditer(text):
        if _has_letter_and_digit(found[1]):
            yield _span(text, *found.span(1))
    for found in IN_URL.finditer(text):
        if not _is_placeholder(found[1]):
            yield _span(text, *found.span(1))
    for found in LABELLED_PASSWORD.finditer(text):
        if _has_letter_and_digit(found[1]) and not _is_placeholder(found[1]):
            yield _span(text, *found.span(1))
    for found in LABELLED_KEY.finditer(text):
        if _has_letter_and_digit(found[1]) and _entropy_bits(found[1]) >= RANDOM_BITS:
            yield _span(text, *found.span(1))


def _span(text: str, start: int, end: int) -> Span:
    return Span(start, end, Kind.SECRET, text[start:end])


def _has_letter_and_digit(value: str) -> bool:
    return any(letter.isalpha() for letter in value) and any(letter.isdigit() for letter in value)


def _entropy_bits(text: str) -> float:
    return -sum(
        count / len(text) * math.log2(count / len(text)) for count in Counter(text).values()
    )


def _is_placeholder(value: str) -> bool:
    return value.startswith(("$", "<", "{", "%")) or value.casefold().strip(".*") in (
        "",
        "password",
        "pass",
        "xxx",
    )
