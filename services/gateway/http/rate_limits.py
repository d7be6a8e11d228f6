"""The quotas in OpenAI's headers: x-ratelimit-{limit,remaining,reset}-{requests,tokens}. Only
limits that hold are there.
"""

import math

from services.gateway.quota import Limit
from services.gateway.quotas import Standing


def rate_limit_headers(standing: Standing) -> dict[str, str]:
    """Requests are a minute's, tokens a day's; turns at once have no header with OpenAI either."""
    headers = {}
    for limit in (Limit.REQUESTS, Limit.TOKENS):
        if level := standing.get(limit):
            headers[f"x-ratelimit-limit-{limit}"] = str(level.limit)
            headers[f"x-ratelimit-remaining-{limit}"] = str(level.remaining)
            headers[f"x-ratelimit-reset-{limit}"] = duration(level.reset_seconds)
    return headers


def duration(seconds: float) -> str:
    """As OpenAI writes it: 6m0s; whole seconds, rounded up."""
    whole = math.ceil(seconds)
    hours, minutes = whole // 3600, whole % 3600 // 60
    parts = [f"{hours}h" if hours else "", f"{minutes}m" if whole >= 60 else "", f"{whole % 60}s"]
    return "".join(parts)
