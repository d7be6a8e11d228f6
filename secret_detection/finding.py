"""Detection of secrets by their form.

The prefixes are documented by their issuers for secret scanning. A labelled value must also look
random.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

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
# The beginning of a key or token and the rest of its word.
KNOWN_START = re.compile(
    r"(?<![A-Za-z0-9])(?:AKIA|ASIA|AROA|AIDA|gh[pousr]_|github_pat_|glpat-|sk-|[rsp]k_(?:live|test)_"
    r"|whsec_|xox[abeoprs]-|xapp-|AIza|ya29\.|hf_|tw_|npm_|pypi-|SG\.|key-|dop_v1_"
    r"|shp(?:at|ca|pa|ss)_|hvs\.|AGE-SECRET-KEY-1|\d{8,10}:AA|eyJ)[\w.:-]*+"
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


class SecretForm(StrEnum):
    """Form of a secret."""

    PRIVATE_KEY = "private key"
    KEY = "key"
    PASSWORD = "password"  # noqa: S105 - a form


@dataclass(frozen=True, slots=True)
class Secret:
    """Characters `start` to `end` (exclusive) of a text that are a secret.

    Attributes:
        label_start: start of the label before the value, such as "password: "; `start` without one.
    """

    start: int
    end: int
    form: SecretForm
    label_start: int


def find_secrets(text: str) -> Iterator[Secret]:
    """Yield all secrets of a text in no particular order; they may overlap."""
    for found in PEM.finditer(text):
        closing = PEM_END.search(text, found.end())
        end = closing.end() if closing else len(text)
        yield Secret(found.start(), end, SecretForm.PRIVATE_KEY, found.start())
    yield from find_known_secrets(text)
    for found in BEARER.finditer(text):
        if has_letter_and_digit(found[1]):
            yield _labelled(found, SecretForm.KEY)
    for found in IN_URL.finditer(text):
        if not _is_placeholder(found[1]):
            yield Secret(*found.span(1), SecretForm.PASSWORD, found.start(1))
    for found in LABELLED_PASSWORD.finditer(text):
        if has_letter_and_digit(found[1]) and not _is_placeholder(found[1]):
            yield _labelled(found, SecretForm.PASSWORD)
    for found in LABELLED_KEY.finditer(text):
        if has_letter_and_digit(found[1]) and entropy_bits(found[1]) >= RANDOM_BITS:
            yield _labelled(found, SecretForm.KEY)


def find_known_secrets(text: str) -> Iterator[Secret]:
    """Yield the keys and tokens with a known form."""
    for found in KNOWN.finditer(text):
        yield Secret(*found.span(), SecretForm.KEY, found.start())


def ends_with_known_start(word: str) -> bool:
    """Return True if a key or token begins in the word and may go on in the next line."""
    # One match takes all that follows it, so that the time is linear; a pattern that ends with "$"
    # would read the rest of the word from each prefix.
    return any(found.end() == len(word) for found in KNOWN_START.finditer(word))


def entropy_bits(text: str) -> float:
    """Return the Shannon entropy of the characters, in bits per character."""
    return -sum(
        count / len(text) * math.log2(count / len(text)) for count in Counter(text).values()
    )


def has_letter_and_digit(value: str) -> bool:
    """Return True unless the value is a word or a number."""
    return any(letter.isalpha() for letter in value) and any(letter.isdigit() for letter in value)


def _labelled(found: re.Match[str], form: SecretForm) -> Secret:
    return Secret(*found.span(1), form, found.start())


def _is_placeholder(value: str) -> bool:
    return value.startswith(("$", "<", "{", "%")) or value.casefold().strip(".*") in (
        "",
        "password",
        "pass",
        "xxx",
    )
