"""Permitted callers of each method, by the service name in token and client certificate.

Methods missing from the table are denied.
"""

from collections.abc import Mapping

GATEWAY = frozenset({"gateway"})
LOOP = frozenset({"training", "operator"})
# Draws the models of battles.
REVIEW = frozenset({"review"})

CALLERS: Mapping[str, frozenset[str]] = {
    "thumbwheel.generator.v1.GeneratorService.Generate": GATEWAY,
    "thumbwheel.generator.v1.RolloutService.GetRollout": GATEWAY | LOOP | REVIEW,
    "thumbwheel.generator.v1.RolloutService.StartCanary": LOOP,
    "thumbwheel.generator.v1.RolloutService.RenewCanary": LOOP,
    "thumbwheel.generator.v1.RolloutService.PromoteCanary": LOOP,
    "thumbwheel.generator.v1.RolloutService.RollBackCanary": LOOP,
    "thumbwheel.generator.v1.RolloutService.GetVersionTraffic": LOOP,
}
