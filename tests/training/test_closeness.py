"""The comparison of runs: equal bits on CPUs, limits by number type on CUDA."""

import pytest
import torch

from tests.training.closeness import REPEATED, Closeness
from training.runtime.context import Machine, Progress

EXACT = Closeness(Machine(device="cpu"))
ON_CUDA = {dtype: Closeness(Machine(device="cuda", dtype=dtype)) for dtype in REPEATED}


def steps(loss: float, later: float) -> list[Progress]:
    return [Progress("sft", 1, 2, {"loss": loss}), Progress("sft", 2, 2, {"loss": later})]


@pytest.mark.parametrize("dtype", REPEATED)
def test_figures_on_cuda_differ_by_the_limit_of_their_number_type(dtype: str) -> None:
    near, far = 2.0 * (1 + REPEATED[dtype] / 3), 2.0 * (1 + 3 * REPEATED[dtype])
    ON_CUDA[dtype].check_figures({"loss": near}, {"loss": 2.0})
    # Later steps of a policy may have other samples.
    ON_CUDA[dtype].check_steps(steps(near, 9.0), steps(2.0, 1.0))
    with pytest.raises(AssertionError):
        ON_CUDA[dtype].check_figures({"loss": far}, {"loss": 2.0})
    with pytest.raises(AssertionError):
        ON_CUDA[dtype].check_steps(steps(far, 1.0), steps(2.0, 1.0))


def test_a_cpu_repeats_its_bits() -> None:
    one, other = {"w": torch.ones(2)}, {"w": torch.ones(2) + 1e-6}
    EXACT.check_figures({"loss": 2.0}, {"loss": 2.0})
    EXACT.check_tensors(one, one, moved=1.0)
    with pytest.raises(AssertionError):
        EXACT.check_figures({"loss": 2.0}, {"loss": 2.0 + 1e-9})
    with pytest.raises(AssertionError):
        EXACT.check_steps(steps(2.0, 1.0), steps(2.0, 1.0 + 1e-9))
    with pytest.raises(AssertionError):
        EXACT.check_tensors(one, other, moved=1.0)
    with pytest.raises(AssertionError):
        EXACT.check_policy_report({"kl": 0.5}, {"kl": 0.5 + 1e-9})


def test_weights_on_cuda_differ_by_what_the_optimizer_moves() -> None:
    one, moved, far = ({"w": torch.full((2,), value)} for value in (1.0, 1.1, 1.3))
    closeness = ON_CUDA["bfloat16"]
    closeness.check_tensors(one, moved, moved=0.1)
    with pytest.raises(AssertionError):
        closeness.check_tensors(one, far, moved=0.1)
    with pytest.raises(AssertionError):
        closeness.check_tensors(one, {}, moved=0.1)


def test_reports_of_policies_on_cuda_agree_in_counts_and_reasons() -> None:
    closeness = ON_CUDA["bfloat16"]
    closeness.check_policy_report({"updates": 6, "kl": 0.5}, {"updates": 6, "kl": 0.7})
    with pytest.raises(AssertionError):
        closeness.check_policy_report({"updates": 6, "kl": 0.5}, {"updates": 5, "kl": 0.5})
