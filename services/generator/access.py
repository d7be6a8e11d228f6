"""Which services may call which method here, where certificates tell them apart. A method that is
not in the table is denied.
"""

from collections.abc import Mapping

GATEWAY = frozenset({"gateway"})
LOOP = frozenset({"training", "operator"})

CALLERS: Mapping[str, frozenset[str]] = {
    "thumbwheel.generator.v1.GeneratorService.Generate": GATEWAY,
    "thumbwheel.generator.v1.RolloutService.GetRollout": GATEWAY | LOOP,
    "thumbwheel.generator.v1.RolloutService.StartCanary": LOOP,
    "thumbwheel.generator.v1.RolloutService.RenewCanary": LOOP,
    "thumbwheel.generator.v1.RolloutService.PromoteCanary": LOOP,
    "thumbwheel.generator.v1.RolloutService.RollBackCanary": LOOP,
}
