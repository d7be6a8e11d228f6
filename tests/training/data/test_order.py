"""Data order, splits, padding and the tokenizer of nano."""

from pathlib import Path

import torch

from tests.support.errors import refused
from training.data.order import held_out_keys, rows_of_step, steps_for
from training.data.seeds import seed_of
from training.data.tensors import TokenisedExample, microbatches, pad, response_batch
from training.errors import ConfigError
from training.runtime.ranks import all_different
from training.tokenization.nano_tokenizer import CONTROL, train_tokenizer


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
    keys = [f"prompt {i}" for i in range(50)] * 3
    held = held_out_keys(keys, 0.2, seed=1)
    assert len(held) == 10
    assert held == held_out_keys(reversed(keys), 0.2, seed=1)
    assert held != held_out_keys(keys, 0.2, seed=2)


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
