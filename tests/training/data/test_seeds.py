"""Held-out decisions by key, and the cost of importing them."""

import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from training.data.seeds import is_held_out, seed_of

SEED = 3


def test_seed_depends_on_the_ordered_parts_and_fits_a_generator() -> None:
    assert seed_of(1, "order", 2) == 1493370279577090964
    assert (
        len({seed_of(*parts) for parts in ((1, "a"), (2, "a"), (1, "b"), ("a", 1), (1, "a", 0))})
        == 5
    )
    assert all(0 <= seed_of(number) < 1 << 63 for number in range(100))


def test_importing_seeds_does_not_import_torch() -> None:
    code = "import sys, training.data.seeds; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@given(st.text(), st.floats(0.01, 0.5))
def test_larger_share_contains_every_key_of_a_smaller_share(text: str, share: float) -> None:
    assert not is_held_out(text, share, SEED) or is_held_out(text, 0.5, SEED)


def test_held_out_share_is_close_to_the_requested_share() -> None:
    held = sum(is_held_out(f"text {number}", 0.1, SEED) for number in range(5000))
    assert 400 < held < 600
    assert [is_held_out(f"text {n}", 0.5, 1) for n in range(99)] != [
        is_held_out(f"text {n}", 0.5, 2) for n in range(99)
    ]
