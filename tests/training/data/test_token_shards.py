"""Token shards contain every text once, at deterministic positions; mismatches are refused."""

import hashlib
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer

from tests.support.errors import refused
from tests.training.tokenization.sample_tokenizers import DIFFICULT
from tests.training.toys import write_lines
from training.artifacts.manifest import MANIFEST, ManifestError, verify_manifest
from training.data.corpus import TextError
from training.data.split_writer import id_bytes
from training.data.token_shards import (
    HELD_OUT,
    TRAIN,
    ShardConfig,
    ShardError,
    TokenisationProgress,
    TokenStream,
    open_shards,
    write_shards,
)
from training.tokenization.byte_pairs import BEGIN, END, train_tokenizer
from training.tokenization.text_tokenizer import BytePairs, open_tokenizer

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
    assert all(
        row[0] == tokenizer.token_to_id(BEGIN) and row[-1] == tokenizer.token_to_id(END)
        for row in rows
    )
    return [tokenizer.decode(row, skip_special_tokens=True) for row in rows]


def test_every_text_is_in_exactly_one_split_in_order(config: ShardConfig) -> None:
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
    assert (
        manifest.report[TRAIN]["bytes"]
        == sum(len(text.encode()) for text in train)
        == splits.train.bytes
    )
    assert manifest.report[TRAIN]["documents"] == len(train)


def test_rows_of_parquet_keep_their_identifiers(config: ShardConfig, tmp_path: Path) -> None:
    ids = [f"{number:032x}" for number in range(len(TEXTS))]
    tables = tmp_path / "tables"
    tables.mkdir()
    pq.write_table(pa.table({"id": ids, "text": TEXTS}), tables / "a.parquet")
    pq.write_table(pa.table({"text": ["without"], "id": ["urn:x"]}), tables / "b.parquet")

    write_shards(replace(config, sources=(tables,)))

    shards = open_shards(config.output_directory, config.tokenizer_directory)
    tokenizer = Tokenizer.from_file(str(config.tokenizer_directory / "tokenizer.json"))
    expected = {text: id_bytes(one) for one, text in zip(ids, TEXTS, strict=True)}
    expected["without"] = hashlib.sha256(b"urn:x").digest()[:16]
    for split in (TRAIN, HELD_OUT):
        raw = (config.output_directory / f"{split}-ids.bin").read_bytes()
        texts = documents(getattr(shards, split), tokenizer)
        assert raw == b"".join(expected[text] for text in texts)


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        (pa.table({"content": ["a"]}), "MISSING"),
        (pa.table({"text": [1]}), "MISSING"),
        (pa.table({"text": ["a", ""]}), "EMPTY"),
        (pa.table({"text": pa.array(["a", None])}), "MISSING"),
    ],
    ids=["no column", "numbers", "an empty text", "a null"],
)
def test_unusable_parquet_is_refused(
    config: ShardConfig, tmp_path: Path, table: pa.Table, reason: str
) -> None:
    pq.write_table(table, tmp_path / "a.parquet")

    with pytest.raises(TextError, match=r"a\.parquet") as raised:
        write_shards(replace(config, sources=(tmp_path / "a.parquet",)))

    assert raised.value.reason == reason


def test_a_file_that_is_no_parquet_is_refused(config: ShardConfig, tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_text("text")

    with pytest.raises(TextError, match=r"a\.parquet"):
        write_shards(replace(config, sources=(tmp_path / "a.parquet",)))


def test_shards_have_the_ids_of_tokenizer_json(config: ShardConfig, tmp_path: Path) -> None:
    hard = [text for text in DIFFICULT if text]
    write_lines(tmp_path / "hard.jsonl", [{"text": text} for text in hard])
    write_shards(replace(config, sources=(tmp_path / "hard.jsonl",), held_out_fraction=0.0))
    train = open_shards(config.output_directory, config.tokenizer_directory).train
    rows = [
        train.read(start, stop).tolist() for start, stop in pairwise(train.token_begins.tolist())
    ]
    tokenizer = Tokenizer.from_file(str(config.tokenizer_directory / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    begin, end = tokenizer.token_to_id(BEGIN), tokenizer.token_to_id(END)
    assert isinstance(open_tokenizer(config.tokenizer_directory), BytePairs)
    assert rows == [
        [begin, *tokenizer.encode(text, add_special_tokens=False).ids, end] for text in hard
    ]


def test_text_is_in_the_same_split_at_any_place(config: ShardConfig, tmp_path: Path) -> None:
    write_shards(config)
    again = replace(
        config, sources=(tmp_path / "mixed.jsonl",), output_directory=tmp_path / "again"
    )
    write_lines(tmp_path / "mixed.jsonl", [{"text": text} for text in reversed(TEXTS + TEXTS)])
    write_shards(again)
    tokenizer = Tokenizer.from_file(str(config.tokenizer_directory / "tokenizer.json"))
    one, other = (
        documents(open_shards(c.output_directory, c.tokenizer_directory).held_out, tokenizer)
        for c in (config, again)
    )
    assert set(one) == set(other)
    assert len(other) == 2 * len(one)


def test_finished_shards_are_reused_and_other_settings_are_refused(config: ShardConfig) -> None:
    progress: list[TokenisationProgress] = []
    first = write_shards(config, progress.append)
    assert progress[-1].read_bytes == progress[-1].all_bytes > 0
    assert progress[-1].documents == len(TEXTS)
    assert write_shards(config, lambda _: pytest.fail("tokenised again")) == first
    with refused(ShardError, field="output_directory", reason="MISMATCH") as caught:
        write_shards(replace(config, seed=1, held_out_fraction=0.3))
    assert [name for name in vars(config) if name in caught.value.text] == [
        "output_directory",
        "held_out_fraction",
        "seed",
    ]


def test_files_of_an_interrupted_run_are_overwritten(config: ShardConfig) -> None:
    first = write_shards(config)
    (config.output_directory / MANIFEST).unlink()
    (config.output_directory / "train-00099.bin").write_bytes(b"torn")
    with refused(ManifestError, field=MANIFEST, reason="MISSING"):
        open_shards(config.output_directory, config.tokenizer_directory)
    assert write_shards(config).files == first.files


def test_output_directory_with_foreign_files_is_refused_and_unchanged(config: ShardConfig) -> None:
    config.output_directory.mkdir()
    (config.output_directory / "thesis.txt").write_text("years of work")
    with refused(ShardError, field="output_directory", reason="EXISTS") as caught:
        write_shards(config)
    assert "thesis.txt" in caught.value.text
    assert (config.output_directory / "thesis.txt").read_text() == "years of work"


def test_control_token_in_a_text_is_text_unless_enabled(
    config: ShardConfig, tmp_path: Path
) -> None:
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


def test_shards_of_another_tokenizer_and_truncated_files_are_refused(
    config: ShardConfig, tmp_path: Path
) -> None:
    tokens = write_shards(config).report[TRAIN]["tokens"]
    train_tokenizer(TEXTS[:5], 280, tmp_path / "other")
    with refused(ShardError, field="tokenizer_directory", reason="MISMATCH"):
        open_shards(config.output_directory, tmp_path / "other")
    shard = config.output_directory / "train-00001.bin"
    shard.write_bytes(shard.read_bytes()[:-20])
    with refused(ShardError, field="train", reason="DAMAGED", limit=str(tokens)):
        open_shards(config.output_directory, config.tokenizer_directory)


@pytest.mark.parametrize(
    ("content", "field", "reason"),
    [
        ('{"text": ""}\n', "bad.jsonl:1:text", "EMPTY"),
        ('{"text": "a"}\n{"txt": "b"}\n', "bad.jsonl:2:text", "MISSING"),
        ('{"text": "a"\n', "bad.jsonl:1", "MALFORMED"),
        ('{"text": "\\ud800"}\n', "bad.jsonl:1:text", "NOT_UTF8"),
    ],
)
def test_invalid_text_line_is_named_by_file_and_line(
    config: ShardConfig, tmp_path: Path, content: str, field: str, reason: str
) -> None:
    (tmp_path / "bad.jsonl").write_text(content)
    with refused(TextError, field=field, reason=reason):
        write_shards(replace(config, sources=(tmp_path / "bad.jsonl",)))


def test_files_without_texts_are_refused(config: ShardConfig, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with refused(TextError, field="empty", reason="EMPTY", limit=".txt, .jsonl, .parquet"):
        write_shards(replace(config, sources=(tmp_path / "empty",)))
    (tmp_path / "table.csv").write_text("a,b")
    with refused(
        TextError, field="table.csv", reason="UNSUPPORTED", limit=".txt, .jsonl, .parquet"
    ):
        write_shards(replace(config, sources=(tmp_path / "table.csv",)))
    with refused(TextError, field="nowhere", reason="MISSING"):
        write_shards(replace(config, sources=(tmp_path / "nowhere",)))


def test_manifest_contains_no_local_paths(config: ShardConfig, tmp_path: Path) -> None:
    write_shards(config)
    assert str(tmp_path) not in json.dumps(
        json.loads((config.output_directory / MANIFEST).read_text())
    )
