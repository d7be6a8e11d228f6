"""A corpus as token shards: everything is in them once, where it is is a function of the texts, and what does not fit is refused."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from tests.training.toys import write_lines
from training.data.examples import ExampleError
from training.data.packing import PackedRows
from training.data.token_shards import (
    TRAIN,
    ShardConfig,
    ShardError,
    Tokenised,
    TokenStream,
    open_shards,
    write_shards,
)
from training.data.tokenize import BEGIN, END, train_tokenizer
from training.manifest import MANIFEST, ManifestError, verify_manifest

TEXTS = [f"the bird number {i} sings in the tree — über {'river ' * (i % 7)}" for i in range(60)]


@pytest.fixture
def config(tmp_path: Path) -> ShardConfig:
    train_tokenizer(TEXTS, 300, tmp_path / "tokenizer")
    texts = tmp_path / "texts"
    texts.mkdir()
    write_lines(texts / "a.jsonl", [{"text": text} for text in TEXTS[:40]])
    write_lines(texts / "b.jsonl", [{"text": text} for text in TEXTS[40:-1]])
    (texts / "c.txt").write_text(TEXTS[-1])
    return ShardConfig(
        sources=(texts,),
        tokenizer_directory=tmp_path / "tokenizer",
        output_directory=tmp_path / "shards",
        held_out_fraction=0.2,
        shard_tokens=100,
    )


def documents(stream: TokenStream, tokenizer: Tokenizer) -> list[str]:
    begins = stream.token_begins.tolist()
    rows = [stream.read(start, stop).tolist() for start, stop in pairwise(begins)]
    assert all(row[0] == tokenizer.token_to_id(BEGIN) and row[-1] == tokenizer.token_to_id(END) for row in rows)
    return [tokenizer.decode(row, skip_special_tokens=True) for row in rows]


def test_every_text_is_in_one_split_once_in_order_across_shards(config: ShardConfig) -> None:
    manifest = write_shards(config)
    verify_manifest(config.output_directory)
    splits = open_shards(config.output_directory, config.tokenizer_directory)
    tokenizer = Tokenizer.from_file(str(config.tokenizer_directory / "tokenizer.json"))
    train, held_out = (documents(split, tokenizer) for split in (splits.train, splits.held_out))
    assert sorted([*train, *held_out]) == sorted(TEXTS)
    assert train == [text for text in TEXTS if text in train]
    assert 4 < len(held_out) < 25
    assert len(splits.train.shards) > 2
    assert {len(shard) for shard in splits.train.shards[:-1]} == {100}
    assert manifest.report["dtype"] == "uint16"
    assert manifest.report[TRAIN]["bytes"] == sum(len(text.encode()) for text in train) == splits.train.bytes
    assert manifest.report[TRAIN]["documents"] == len(train)


def test_a_text_is_on_the_same_side_wherever_it_stands(config: ShardConfig, tmp_path: Path) -> None:
    write_shards(config)
    again = replace(config, sources=(tmp_path / "mixed.jsonl",), output_directory=tmp_path / "again")
    write_lines(tmp_path / "mixed.jsonl", [{"text": text} for text in reversed(TEXTS + TEXTS)])
    write_shards(again)
    tokenizer = Tokenizer.from_file(str(config.tokenizer_directory / "tokenizer.json"))
    one, other = (
        documents(open_shards(c.output_directory, c.tokenizer_directory).held_out, tokenizer) for c in (config, again)
    )
    assert set(one) == set(other)
    assert len(other) == 2 * len(one)


def test_the_same_texts_are_not_tokenised_again_and_others_are_refused(config: ShardConfig) -> None:
    told: list[Tokenised] = []
    first = write_shards(config, told.append)
    assert told[-1].read_bytes == told[-1].all_bytes > 0
    assert told[-1].documents == len(TEXTS)
    assert write_shards(config, lambda _: pytest.fail("tokenised again")) == first
    with pytest.raises(ShardError, match="output_directory: shards was made with another held_out_fraction, seed"):
        write_shards(replace(config, seed=1, held_out_fraction=0.3))


def test_what_a_cut_off_run_left_is_written_anew(config: ShardConfig) -> None:
    first = write_shards(config)
    (config.output_directory / MANIFEST).unlink()
    (config.output_directory / "train-00099.bin").write_bytes(b"torn")
    with pytest.raises(ManifestError, match="is not finished"):
        open_shards(config.output_directory, config.tokenizer_directory)
    assert write_shards(config).files == first.files


def test_a_control_token_that_a_text_spells_is_text_unless_asked_for(config: ShardConfig, tmp_path: Path) -> None:
    write_lines(tmp_path / "spelt.jsonl", [{"text": f"a {END} b"}])
    ends = []
    for control in (False, True):
        asked = replace(
            config,
            sources=(tmp_path / "spelt.jsonl",),
            output_directory=tmp_path / f"control-{control}",
            control_tokens=control,
            held_out_fraction=0.0,
        )
        write_shards(asked)
        stream = open_shards(asked.output_directory, config.tokenizer_directory).train
        ends.append(stream.read(0, stream.tokens).tolist().count(2))
    assert ends == [1, 2]


def test_shards_of_another_tokenizer_or_a_cut_file_are_refused(config: ShardConfig, tmp_path: Path) -> None:
    write_shards(config)
    train_tokenizer(TEXTS[:5], 280, tmp_path / "other")
    with pytest.raises(ShardError, match="tokenizer_directory: other is not the tokenizer"):
        open_shards(config.output_directory, tmp_path / "other")
    shard = config.output_directory / "train-00001.bin"
    shard.write_bytes(shard.read_bytes()[:-20])
    with pytest.raises(ShardError, match=r"train has \d+ tokens, its manifest says \d+"):
        open_shards(config.output_directory, config.tokenizer_directory)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ('{"text": ""}\n', "bad.jsonl line 1: text: must be text and not empty"),
        ('{"text": "a"}\n{"txt": "b"}\n', "bad.jsonl line 2: text"),
        ('{"text": "a"\n', "bad.jsonl line 1: not JSON"),
        ('{"text": "\\ud800"}\n', "bad.jsonl line 1: text: holds half a surrogate pair"),
    ],
)
def test_a_bad_line_is_named_by_file_and_line(config: ShardConfig, tmp_path: Path, content: str, named: str) -> None:
    (tmp_path / "bad.jsonl").write_text(content)
    with pytest.raises(ExampleError, match=named):
        write_shards(replace(config, sources=(tmp_path / "bad.jsonl",)))


def test_files_that_hold_no_texts_are_refused(config: ShardConfig, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ExampleError, match=r"empty: no .jsonl or .txt file"):
        write_shards(replace(config, sources=(tmp_path / "empty",)))
    (tmp_path / "table.csv").write_text("a,b")
    with pytest.raises(ExampleError, match=r"table.csv: not a .jsonl or .txt file"):
        write_shards(replace(config, sources=(tmp_path / "table.csv",)))


def stream_of(*lengths: int) -> TokenStream:
    begins = np.cumsum([0, *lengths])
    return TokenStream((np.arange(100, 100 + begins[-1], dtype=np.uint16),), 1 << 20, begins, begins * 3)


def test_packed_documents_predict_every_token_but_their_first_exactly_once() -> None:
    stream = stream_of(3, 12, 1, 4, 2)
    rows = PackedRows(stream, row_tokens=5, packing="documents")
    batch = rows.batch(range(len(rows)))
    learned = batch.ids_BT[batch.learned_BT].tolist()
    firsts = {100, 103, 115, 116, 120}
    assert sorted(learned) == [token for token in range(100, 122) if token not in firsts]
    assert rows.left_over_tokens == 0
    # Of those, what ends a document stands for no text.
    assert sorted(batch.ids_BT[batch.text_BT].tolist()) == sorted(set(learned) - {102, 114, 115, 119, 121})


def test_packed_rows_hold_document_numbers_and_are_filled_with_zero() -> None:
    batch = PackedRows(stream_of(3, 4), row_tokens=5, packing="documents").batch([0, 1])
    assert batch.ids_BT.tolist() == [[100, 101, 102, 103, 104], [104, 105, 106, 0, 0]]
    assert batch.mask_BT.tolist() == [[1, 1, 1, 2, 2], [2, 2, 2, 0, 0]]
    assert batch.learned_BT.int().tolist() == [[0, 1, 1, 0, 1], [0, 1, 1, 0, 0]]


def test_a_stream_lies_end_to_end_and_counts_what_is_left_over() -> None:
    rows = PackedRows(stream_of(3, 4, 6), row_tokens=5, packing="stream")
    batch = rows.batch([0, 1])
    assert batch.ids_BT.flatten().tolist() == list(range(100, 110))
    assert batch.mask_BT.tolist() == [[1] * 5] * 2
    assert batch.learned_BT.int().tolist() == [[0, 1, 1, 1, 1]] * 2
    assert (len(rows), rows.left_over_tokens) == (2, 3)


def test_the_first_documents_are_whole_and_at_least_one() -> None:
    stream = stream_of(3, 4, 6)
    assert [(part.documents, part.tokens, part.bytes) for part in map(stream.first, (1, 7, 12, 99))] == [
        (1, 3, 9),
        (2, 7, 21),
        (2, 7, 21),
        (3, 13, 39),
    ]


@pytest.mark.parametrize(("rows", "packing", "named"), [(1, "stream", "context_tokens"), (8, "best", "packing")])
def test_rows_that_make_no_sense_are_refused(rows: int, packing: str, named: str) -> None:
    with pytest.raises(ShardError, match=named):
        PackedRows(stream_of(3), rows, packing)


def test_the_manifest_holds_no_place_of_this_machine(config: ShardConfig, tmp_path: Path) -> None:
    write_shards(config)
    assert str(tmp_path) not in json.dumps(json.loads((config.output_directory / MANIFEST).read_text()))
