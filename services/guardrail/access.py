"""Allowed callers of the guardrail, by method; a method without an entry is denied.

The names of callers are verified by their tokens, and with mutual TLS by their certificates.
"""

from collections.abc import Mapping

GATEWAY = frozenset({"gateway"})

CALLERS: Mapping[str, frozenset[str]] = {
    "thumbwheel.guardrail.v1.GuardrailService.CheckInput": GATEWAY,
    "thumbwheel.guardrail.v1.GuardrailService.CheckOutput": GATEWAY,
    "thumbwheel.guardrail.v1.GuardrailService.CheckOutputs": GATEWAY,
}
