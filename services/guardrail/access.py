"""Which services may call which method here, where certificates tell them apart. A method that is
not in the table is denied.
"""

from collections.abc import Mapping

GATEWAY = frozenset({"gateway"})

CALLERS: Mapping[str, frozenset[str]] = {
    "thumbwheel.guardrail.v1.GuardrailService.CheckInput": GATEWAY,
    "thumbwheel.guardrail.v1.GuardrailService.CheckOutput": GATEWAY,
    "thumbwheel.guardrail.v1.GuardrailService.CheckOutputs": GATEWAY,
}
