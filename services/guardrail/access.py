"""Which services may call the guardrail's methods, where certificates tell them apart. A method that is not here is denied."""

from collections.abc import Mapping

GATEWAY = frozenset({"gateway"})

CALLERS: Mapping[str, frozenset[str]] = {
    "thumbwheel.guardrail.v1.GuardrailService.CheckInput": GATEWAY,
    "thumbwheel.guardrail.v1.GuardrailService.CheckOutput": GATEWAY,
}
