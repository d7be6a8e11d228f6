"""Countries of a text, by the top-level domain of its URL and by its language."""

from __future__ import annotations

from urllib.parse import urlsplit

# Countries whose numbering plan applies to numbers without a country code; the most speakers first.
REGIONS = {
    "ar": ("EG", "SA"),
    "bg": ("BG",),
    "cs": ("CZ",),
    "da": ("DK",),
    "de": ("DE", "AT", "CH"),
    "el": ("GR",),
    "en": ("US", "GB", "AU"),
    "es": ("ES", "MX", "AR"),
    "et": ("EE",),
    "fi": ("FI",),
    "fr": ("FR", "BE", "CH"),
    "he": ("IL",),
    "hi": ("IN",),
    "hr": ("HR",),
    "hu": ("HU",),
    "id": ("ID",),
    "it": ("IT",),
    "ja": ("JP",),
    "ko": ("KR",),
    "lt": ("LT",),
    "nl": ("NL", "BE"),
    "nb": ("NO",),
    "no": ("NO",),
    "pl": ("PL",),
    "pt": ("BR", "PT"),
    "ro": ("RO",),
    "ru": ("RU",),
    "sk": ("SK",),
    "sv": ("SE",),
    "th": ("TH",),
    "tr": ("TR",),
    "uk": ("UA",),
    "vi": ("VN",),
    "zh": ("CN", "TW"),
}
# Domains of countries that are sold to everyone say nothing about the country.
GENERIC = frozenset("ai cc co fm gg io me ly sh so tk to tv ws".split())


def regions_of(language: str, url: str = "") -> tuple[str, ...]:
    """Return ISO 3166 codes, the most likely country first; () if none is known.

    Args:
        language: ISO 639-1 code; "" if unknown.
        url: address of the page; "" if unknown.
    """
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        host = ""
    domain = host.rpartition(".")[2]
    is_country = len(domain) == 2 and domain.isalpha() and domain not in GENERIC
    country = ({"uk": "GB"}.get(domain, domain.upper()),) if is_country else ()
    return tuple(dict.fromkeys((*country, *REGIONS.get(language, ()))))
