"""Equality of repeated runs, by device and number type.

On a CPU (and on the fake accelerator) a run repeats its bits. Kernels of CUDA add in an order that
differs from call to call, so two runs from the same state differ by rounding; a resumed run then
has the figures of its first step within REPEATED. The limits for CUDA were not measured when they
were written: no GPU was available.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from torch import Tensor

from training.runtime.context import Machine, Progress

# Largest relative difference of a figure. A product has about 3 (bfloat16) and 7 (float32) digits.
REPEATED = {"float32": 1e-3, "bfloat16": 3e-2}
# Absolute difference of log-probs and weights between two ways to compute one update. Measured on
# CPUs: tests/training/stages/test_grpo.py.
ONE_UPDATE = {"float32": 1e-5, "bfloat16": 1e-3}
# Absolute difference of a log-prob of a toy network that is computed in two ways in float32, on any
# processor: sums of at most 64 products, about 20 one after another, each wrong by at most 64 times
# the unit roundoff of 6e-8, and logits up to 10: 64 * 20 * 6e-8 * 10 = 8e-4. A wrong mask, position
# or scale moves log-probs by more than 1e-2.
LOG_PROB_ROUNDING = 1e-3
OPTIMIZERS = "optimizers/"  # of the keys of a training state


@dataclass(frozen=True)
class Closeness:
    """Comparison of two runs on a machine."""

    machine: Machine

    @property
    def is_exact(self) -> bool:
        return not self.machine.device.startswith("cuda")

    def check_steps(self, resumed: Sequence[Progress], straight: Sequence[Progress]) -> None:
        """Compare the steps after a resumption with those of an uninterrupted run.

        Without equal bits later steps of a policy may have other samples, so only the first step
        is compared.
        """
        assert [step.step for step in resumed] == [step.step for step in straight]
        if self.is_exact:
            assert [step.metrics for step in resumed] == [step.metrics for step in straight]
        else:
            self.check_figures(resumed[0].metrics, straight[0].metrics)

    def check_policy_report(self, one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
        """Compare reports of a policy; without equal bits, counts and reasons, not its figures."""
        assert one.keys() == other.keys()
        for name, value in one.items():
            if self.is_exact or not isinstance(value, float):
                assert value == other[name], name

    def check_figures(self, one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
        """Compare the figures of a step or of a report."""
        if self.is_exact:
            assert one == other
        else:
            limit = REPEATED[self.machine.dtype]
            assert one == pytest.approx(other, rel=limit, abs=limit)

    def check_tensors(
        self, one: Mapping[str, Tensor], other: Mapping[str, Tensor], moved: float
    ) -> None:
        """Compare weights, or training states: without equal bits, the weights in them.

        Args:
            moved: how far a weight moves at most in the steps that the runs took apart: for Adam
                about the learning rate times the steps. Two runs differ by at most twice as much.
        """
        assert one.keys() == other.keys()
        for name in one if self.is_exact else [n for n in one if not n.startswith(OPTIMIZERS)]:
            largest = (one[name].double() - other[name].double()).abs().max().item()
            assert largest <= (0.0 if self.is_exact else 2 * moved), name
