"""Allowed callers of the enhancer, by method; a method without an entry is denied.

The names of callers are verified by their tokens, and with mutual TLS by their certificates.
"""

from collections.abc import Mapping

GATEWAY = frozenset({"gateway"})

CALLERS: Mapping[str, frozenset[str]] = {
    "thumbwheel.enhancer.v1.EnhancerService.Enhance": GATEWAY,
}
