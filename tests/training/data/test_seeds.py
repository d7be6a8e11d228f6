"""Seeds, row order and held-out decisions, batches, and the tokenizer of nano."""

import itertools
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.support.errors import refused
from training.data.seeds import is_held_out, rows_of_step, seed_of, split_by_key, steps_for
from training.data.tensors import TokenisedExample, microbatches, pad, response_batch
from training.errors import ConfigError
from training.runtime.ranks import all_different
from training.tokenization.byte_pairs import CONTROL, train_tokenizer

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


def test_every_epoch_is_a_different_permutation_of_all_rows() -> None:
    rows = [row for step in range(10) for row in rows_of_step(step, batch=5, size=25, seed=1)]
    assert sorted(rows[:25]) == sorted(rows[25:]) == list(range(25))
    assert rows[:25] != rows[25:]
    assert rows != [
        row for step in range(10) for row in rows_of_step(step, batch=5, size=25, seed=2)
    ]


def test_step_may_span_two_epochs_and_needs_no_history() -> None:
    flat = [row for step in range(7) for row in rows_of_step(step, batch=4, size=10, seed=1)]
    assert sorted(flat[:10]) == list(range(10))
    assert rows_of_step(2, 4, 10, 1) == flat[8:12]
    assert steps_for(epochs=2, batch=4, size=10) == 5


def test_seeds_of_different_purposes_differ() -> None:
    assert (
        len(
            {
                seed_of(1, "a", 2),
                seed_of(1, "a", 3),
                seed_of(2, "a", 2),
                seed_of(1, "b", 2),
                seed_of(12, "a"),
            }
        )
        == 5
    )
    assert seed_of(1, "a") == seed_of(1, "a") < 2**63


def test_fixed_share_of_the_keys_is_held_out() -> None:
    keyed = [(f"prompt {row % 50}", row) for row in range(150)]
    train, held_out = split_by_key(keyed, 0.2, 1, {})
    assert {row % 50 for row in held_out} == {2, 5, 9, 13, 23, 29, 32, 37, 39, 47}
    assert sorted(train + held_out) == list(range(150))
    assert split_by_key(keyed, 0.2, 2, {})[1] != held_out
    even = {"an even number": lambda row: row % 2 == 0, "an odd number": lambda row: row % 2 == 1}
    assert split_by_key(keyed, 0.2, 1, even) == (train, held_out), "both sides have both kinds"


@pytest.mark.parametrize("fraction", [0.01, 0.5, 0.99])
@pytest.mark.parametrize("size", [3, 5])
def test_both_sides_have_both_kinds_if_each_kind_has_two_keys(size: int, fraction: float) -> None:
    """Split each assignment of "u", "d", both or neither to the keys."""
    kinds = {"a thumb up": lambda row: "u" in row[1], "a thumb down": lambda row: "d" in row[1]}
    for rows_by_key in itertools.product(("u", "d", "ud", "n"), repeat=size):
        keyed = [(str(key), (key, row)) for key, rows in enumerate(rows_by_key) for row in rows]
        counts = [sum(kind in rows for rows in rows_by_key) for kind in "ud"]
        if min(counts) < 2:
            with refused(ConfigError, field="data_path", reason="EMPTY", limit="at least 2") as one:
                split_by_key(keyed, fraction, 1, kinds)
            assert re.findall(r"\d+", str(one.value))[:3] == [str(size), *map(str, counts)]
            continue
        train, held_out = split_by_key(keyed, fraction, 1, kinds)
        for side in (train, held_out):
            assert {row for _, row in side} >= {"u", "d"}
        assert not {key for key, _ in train} & {key for key, _ in held_out}
        assert len(train) + len(held_out) == len(keyed)
        again = split_by_key(keyed[::-1], fraction, 1, kinds)
        assert [sorted(side) for side in again] == [sorted(train), sorted(held_out)]


def test_ranks_divide_a_step_without_overlap() -> None:
    shares = [all_different(rank, 2).share(range(7)) for rank in (0, 1)]
    assert sorted(shares[0] + shares[1]) == list(range(7))


def test_padding_on_the_left_and_on_the_right() -> None:
    ids, mask = pad([[5, 6], [7]], side="left", columns=3)
    assert ids.tolist() == [[0, 5, 6], [0, 0, 7]]
    assert mask.tolist() == [[0, 1, 1], [0, 0, 1]]
    assert pad([[5, 6], [7]])[1].tolist() == [[1, 1], [1, 0]]


def test_response_mask_covers_exactly_the_response() -> None:
    batch = response_batch(
        [TokenisedExample((1, 2, 3), (4, 5)), TokenisedExample((1,), (6,), weight=2.0)]
    )
    assert batch.ids_BT.tolist() == [[1, 2, 3, 4, 5], [1, 6, 0, 0, 0]]
    assert batch.response_mask_BT.tolist() == [[0, 0, 0, 1, 1], [0, 1, 0, 0, 0]]
    assert batch.weights_B.tolist() == [1.0, 2.0]


def test_microbatches_group_examples_by_length() -> None:
    examples = [TokenisedExample((1,) * n, (2,)) for n in (9, 1, 8, 2)]
    shapes = [tuple(batch.ids_BT.shape) for batch in microbatches(examples, 2)]
    assert shapes == [(2, 3), (2, 10)]


def test_tokenizer_round_trips_any_text(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(["the tree stands"] * 10, 280, tmp_path)
    text = "the tree – Ünïcode 日本 \n\t🙂"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert [tokenizer.token_to_id(token) for token in CONTROL] == list(range(6))
    assert len(tokenizer.encode("the tree stands").ids) < len("the tree stands")
    assert torch.tensor(tokenizer.encode(text).ids).max() < 280
    with refused(ConfigError, field="vocab_size", reason="OUT_OF_RANGE", limit="at least 262"):
        train_tokenizer(["x"], 100, tmp_path)
