"""Which services may call the enhancer's methods, where certificates tell them apart. A method that is not here is denied."""

from collections.abc import Mapping

GATEWAY = frozenset({"gateway"})

CALLERS: Mapping[str, frozenset[str]] = {
    "thumbwheel.enhancer.v1.EnhancerService.Enhance": GATEWAY,
}
