"""`python -m training tokenizer` on the command line."""

import io
import json
import re
from pathlib import Path

import pytest

from tests.training.tokenization.sample_tokenizers import TEXT
from training.__main__ import main
from training.artifacts.manifest import hash_file, verify_manifest
from training.recipes.tokenizer.text_files import ProgressReader, TextFiles
from training.runs import FAILED
from training.tokenization.text_tokenizer import BytePairs, open_tokenizer


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "readme.txt"
    path.write_text(TEXT)
    return path


def train(texts: Path, output: Path, *words: str) -> int:
    return main(
        ["tokenizer", "train", str(texts), "--vocabulary", "600", "--output", str(output), *words]
    )


def test_train_writes_a_complete_directory(
    texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(texts, tmp_path / "ours") == 0
    printed = capsys.readouterr().out
    assert str(tmp_path / "ours") in printed
    assert re.findall(r"\b600\b", printed)
    manifest = verify_manifest(tmp_path / "ours")
    assert (manifest.kind, manifest.version) == ("tokenizer", "ours")
    assert manifest.config == {
        "vocabulary": 600,
        "kind": "byte-pairs",
        "split": "gpt4",
        "least_count": 2,
    }
    assert manifest.report["bytes"] == texts.stat().st_size
    assert manifest.data == {"readme.txt": hash_file(texts)}
    assert set(manifest.files) == {
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
    }
    assert isinstance(open_tokenizer(tmp_path / "ours"), BytePairs)


def test_train_is_deterministic(texts: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        assert train(texts, tmp_path / name) == 0
    one, two = (verify_manifest(tmp_path / name) for name in ("one", "two"))
    assert one.files == two.files


def test_folders_of_texts_are_read_like_in_pre_training(
    texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "texts"
    (folder / "below").mkdir(parents=True)
    texts.rename(folder / "below" / "readme.txt")
    (folder / "picture.png").write_bytes(b"\xff")
    for name in ("robots.txt", "below/robots.txt", "page.html"):
        (folder / name).write_text("Disallow: /")
    assert train(folder, tmp_path / "ours") == 0
    said = capsys.readouterr().err
    assert all(part in said for part in ("files: 4", "2 robots.txt", "1 .png", "1 .html", "build"))
    assert set(verify_manifest(tmp_path / "ours").data or ()) == {"readme.txt"}
    (folder / "readme.txt").write_text(TEXT[:500])
    assert train(folder, tmp_path / "both") == 0
    assert set(verify_manifest(tmp_path / "both").data or ()) == {"readme.txt", "below/readme.txt"}
    assert (
        main(["tokenizer", "compare", str(folder), "--vocabulary", "300", "--held-out", "0.5"]) == 0
    )
    capsys.readouterr()
    for number in range(3):
        (tmp_path / "notes").mkdir(exist_ok=True)
        (tmp_path / "notes" / f"{number}.md").write_text("a note")
    (tmp_path / "notes" / "one.rst").write_text("a note")
    assert train(tmp_path / "notes", tmp_path / "none") == 1
    printed = capsys.readouterr().err
    assert all(part in printed for part in ("notes", ".jsonl", ".txt", "4 ", ".md"))
    assert ".rst" not in printed


def test_usage_of_show_lists_its_alternatives(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["tokenizer", "show", "--help"])
    assert (
        "tokenizer show (FILE | --text TEXT) DIR [DIR ...] --page FILE\n" in capsys.readouterr().out
    )


@pytest.mark.parametrize("kind", ["words", "words-and-marks", "characters"])
def test_train_writes_word_and_character_tokenizers(texts: Path, tmp_path: Path, kind: str) -> None:
    assert train(texts, tmp_path / kind, "--kind", kind) == 0
    assert list(verify_manifest(tmp_path / kind).files) == ["tokenizer.json"]


def test_train_reports_a_vocabulary_smaller_than_requested(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tmp_path / "few.jsonl"
    rows.write_text(json.dumps({"text": "abab"}) + "\n")
    assert train(rows, tmp_path / "few") == 0
    assert re.findall(r"\d+", capsys.readouterr().out.rpartition(str(tmp_path / "few"))[2]) == [
        "263",
        "600",
    ]


def test_compare_prints_a_table_and_writes_the_page(
    texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(texts, tmp_path / "given")
    capsys.readouterr()
    page = tmp_path / "page.html"
    command = [
        "tokenizer",
        "compare",
        "--page",
        str(page),
        "--held-out",
        "0.3",
        "--vocabulary",
        "300,400",
    ]
    # The arguments have the order of --help.
    assert main([*command, "--tokenizer", str(tmp_path / "given"), str(texts)]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = [line.split()[0] for line in lines]
    assert names == [
        "tokenizer",
        "bpe-300",
        "bpe-400",
        "word-300",
        "word-400",
        "char-400",
        "given",
        "the",
    ]
    bytes_per_token = [float(line.split()[4]) for line in lines[1:4]]
    assert bytes_per_token[0] < bytes_per_token[1] < bytes_per_token[2]
    assert all(line.endswith("100.0%") for line in lines[1:3])
    assert page.read_text().count("<h2>") == 7
    # A complete text per tokenizer would be megabytes of tokens.
    assert "its first 2,000 characters" in page.read_text()


def test_show_accepts_a_text_or_a_file(texts: Path, tmp_path: Path) -> None:
    train(texts, tmp_path / "ours")
    rows, page = tmp_path / "rows.jsonl", tmp_path / "page.html"
    rows.write_text('{"text": "first of all"}\n{"text": "second"}\n')
    show = ["tokenizer", "show", "--page", str(page)]
    assert main([*show, "--text", "given <b>", str(tmp_path / "ours")]) == 0
    assert "The text given: 9 characters" in page.read_text()
    assert main([*show, str(rows), str(tmp_path / "ours")]) == 0
    assert "rows.jsonl: 12 characters" in page.read_text()
    texts.write_text(TEXT * 2)
    assert main([*show, str(texts), str(tmp_path / "ours")]) == 0
    assert "readme.txt, its first 10,000 characters" in page.read_text()


def test_errors_are_reported_in_one_line(
    texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty, torn = tmp_path / "empty.txt", tmp_path / "torn.txt"
    empty.write_text("")
    blank = tmp_path / "blank.txt"
    blank.write_text("\n")
    torn.write_bytes(b"abc\xff")
    (tmp_path / "bare").mkdir()
    page, new = ["--page", str(tmp_path / "p.html")], ["--output", str(tmp_path / "new")]
    short = tmp_path / "short.txt"
    short.write_text("short")
    named = {
        f"train {texts} --vocabulary 261 {' '.join(new)}": ("vocabulary", "261", "262"),
        f"train {empty} --vocabulary 300 {' '.join(new)}": ("texts", "empty.txt"),
        f"train {blank} --vocabulary 300 {' '.join(new)}": ("texts", "blank.txt"),
        f"train {torn} --vocabulary 300 {' '.join(new)}": ("texts", "torn.txt", "3"),
        f"train {texts} --vocabulary 300 --output {texts}": ("output", "readme.txt"),
        f"train {texts} --vocabulary 300 --output {tmp_path}": ("output", tmp_path.name),
        f"compare {texts} --tokenizer {tmp_path / 'bare'}": (
            "tokenizer.json",
            str(tmp_path / "bare"),
        ),
        f"compare {texts} --tokenizer {tmp_path / 'gone'}": (str(tmp_path / "gone"),),
        f"compare {short} --vocabulary 300": ("held-out", "0.1"),
        f"show {texts} {' '.join(page)}": ("places",),
        f"show --text x {tmp_path / 'bare'} {' '.join(page)}": (
            "tokenizer.json",
            str(tmp_path / "bare"),
        ),
        f"show {tmp_path / 'bare'} {texts} {' '.join(page)}": ("places", "FILE", "--text"),
    }
    for command, parts in named.items():
        assert main(["tokenizer", *command.split()]) == 1, command
        (printed,) = capsys.readouterr().err.splitlines()
        assert printed.startswith(FAILED)
        assert [part for part in parts if part not in printed] == [], printed
    for text, parts in (("", ("text",)), ("a\udcff", ("text", "1"))):
        assert main(["tokenizer", "show", "--text", text, str(tmp_path), *page]) == 1
        printed = capsys.readouterr().err
        assert [part for part in parts if part not in printed] == [], printed
    assert not (tmp_path / "new").exists()


def test_invalid_vocabulary_sizes_are_refused(
    texts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["tokenizer", "compare", "--vocabulary", "300,many", str(texts)])
    printed = capsys.readouterr().err
    assert "--vocabulary" in printed
    assert "300,many" in printed


def test_progress_is_reported_at_intervals(texts: Path) -> None:
    out, seconds = io.StringIO(), iter(range(1000))
    texts.write_text(TEXT * 20)
    list(
        ProgressReader(
            TextFiles([texts, texts]), "ours", "merging", out, lambda: float(next(seconds))
        )
    )
    lines = out.getvalue().splitlines()
    total = f"{2 * texts.stat().st_size / 1e6:.1f}"
    assert lines[0] == f"ours: 0.0 of {total} MB read"
    assert len(lines) > 3
    assert lines[-1] == "ours: all read, merging"


def test_short_pass_reports_no_progress(texts: Path) -> None:
    out = io.StringIO()
    assert "".join(ProgressReader(TextFiles([texts]), "ours", "merging", out, lambda: 0.0)) == TEXT
    assert out.getvalue() == ""
