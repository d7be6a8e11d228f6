"""Quotas in OpenAI's headers x-ratelimit-{limit,remaining,reset}-{requests,tokens}.

Unlimited resources have no header.
"""

import math

from services.gateway.quotas.quota import Limit
from services.gateway.quotas.quotas import QuotaLevels


def rate_limit_headers(levels: QuotaLevels) -> dict[str, str]:
    """Return headers for requests per minute and tokens per day. OpenAI has none for turns."""
    headers = {}
    for limit in (Limit.REQUESTS, Limit.TOKENS):
        if level := levels.get(limit):
            headers[f"x-ratelimit-limit-{limit}"] = str(level.limit)
            headers[f"x-ratelimit-remaining-{limit}"] = str(level.remaining)
            headers[f"x-ratelimit-reset-{limit}"] = duration(level.reset_seconds)
    return headers


def duration(seconds: float) -> str:
    """Return a duration in OpenAI's format (6m0s), rounded up to whole seconds."""
    whole = math.ceil(seconds)
    hours, minutes = whole // 3600, whole % 3600 // 60
    parts = [f"{hours}h" if hours else "", f"{minutes}m" if whole >= 60 else "", f"{whole % 60}s"]
    return "".join(parts)
