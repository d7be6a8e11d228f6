"""`thumbwheel data pii`: files in and out, counts, and errors by field and limit."""

import gzip
import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import zstandard

from training.corpus.__main__ import main
from training.corpus.document import CorpusError
from training.corpus.pii import command

LINES_GZ = gzip.compress(b"{}\n" * 99, mtime=0)  # the time would change names of tests

MAIL = "anna@example.org"


def rows(*values: Mapping[str, object]) -> str:
    return "".join(json.dumps(value) + "\n" for value in values)


def test_json_lines_and_texts_are_written_with_placeholders(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unchanged = '{"text":"plain", "url":"https://example.org/anna@example.org"}\n'
    chat = {"messages": [{"role": "user", "content": MAIL}, {"role": "assistant", "content": MAIL}]}
    text = rows({"prompt": f"to {MAIL}", "chosen": MAIL, "score": 1.5}, chat) + unchanged
    (tmp_path / "a.jsonl").write_text(text)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "c.txt.zst").write_bytes(zstandard.compress(f"{MAIL}\r\nend".encode()))
    out = tmp_path / "out"
    names = ("a.jsonl", "b.jsonl.gz", "c.txt.zst")
    assert main(["pii", *(str(tmp_path / name) for name in names), "--out", str(out)]) == 0
    first, second, third = (out / "a.jsonl").read_text().splitlines(keepends=True)
    assert json.loads(first) == {"prompt": "to <EMAIL_1>", "chosen": "<EMAIL_1>", "score": 1.5}
    assert [m["content"] for m in json.loads(second)["messages"]] == ["<EMAIL_1>"] * 2
    assert third == unchanged
    assert gzip.decompress((out / "b.jsonl.gz").read_bytes()) == (out / "a.jsonl").read_bytes()
    with zstandard.open(out / "c.txt.zst", "rb") as opened:
        assert opened.read() == b"<EMAIL_1>\r\nend"
    printed = capsys.readouterr().out
    assert "3 records, 4 email" in printed
    assert MAIL not in printed
    assert sorted(path.name for path in out.iterdir()) == sorted(names)


def test_without_an_output_folder_texts_are_only_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(rows({"text": f"{MAIL} 203.0.113.7", "body": MAIL}))
    assert main(["pii", str(path), "--fields", "body", "--kinds", "email,card"]) == 0
    assert capsys.readouterr().out.endswith("1 records, 1 email\n")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "content", "arguments", "field", "limit"),
    [
        ("a.jsonl", b'{"text": "x"}\n[1]\n', [], "a.jsonl:1", "one JSON object in each line"),
        ("a.jsonl", b'{"text": "\xff"}\n', [], "a.jsonl:0", "UTF-8, complete"),
        ("a.jsonl.gz", LINES_GZ[:-9], [], "a.jsonl.gz:99", "UTF-8, complete"),
        ("a.jsonl.gz", LINES_GZ[:12] + b"xx", [], "a.jsonl.gz:0", "UTF-8, comp"),
        ("a.jsonl.zst", b"no frame", [], "a.jsonl.zst:0", "UTF-8, complete"),
        ("a.jsonl", b'{"body": "x"}\n', [], "--fields", "a field of the records"),
        ("a.pdf", b"", [], "a.pdf", ".jsonl, .jsonl.gz, .jsonl.zst, .txt, .txt.gz, .txt.zst"),
        ("a.txt", b"123456789", [], "a.txt:0", "at most 8 characters"),
        ("a.txt", b"", ["--kinds", "face"], "--kinds", "bank account, card, email"),
        ("a.txt", b"", ["--language", "xx"], "--language", "ar, bg, cs"),
        ("a.txt", b"", ["--out", "."], "--out", ""),
    ],
)
def test_bad_input_is_refused_with_field_and_limit(
    name: str,
    content: bytes,
    arguments: list[str],
    field: str,
    limit: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    if name == "a.txt":
        monkeypatch.setattr(command, "MAX_RECORD_CHARACTERS", 8)
    Path(name).write_bytes(content)
    errors: list[CorpusError] = []
    run = command.run

    def noted(options: object) -> int:
        try:
            return run(options)  # type: ignore[arg-type]
        except CorpusError as error:
            errors.append(error)
            raise

    monkeypatch.setattr(command, "run", noted)
    assert main(["pii", name, *arguments]) == 2
    assert errors[0].field == field
    assert errors[0].limit.startswith(limit)
    assert capsys.readouterr().err.startswith("thumbwheel data pii: ")


def test_unpaired_surrogates_stay_escaped(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "\\ud800 é anna@example.org"}\n')
    assert main(["pii", str(path), "--out", str(tmp_path / "out")]) == 0
    found = json.loads((tmp_path / "out" / "a.jsonl").read_text())
    assert found == {"text": "\ud800 é <EMAIL_1>"}


def test_files_of_one_name_are_refused(tmp_path: Path) -> None:
    paths = [tmp_path / folder / "a.txt" for folder in ("x", "y")]
    for path in paths:
        path.parent.mkdir()
        path.write_text(MAIL)
    out = tmp_path / "out"
    assert main(["pii", *map(str, paths), "--out", str(out)]) == 2
    assert not out.exists()


def test_an_interrupted_file_does_not_appear(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(rows({"text": "x"}) + "no JSON\n")
    out = tmp_path / "out"
    assert main(["pii", str(path), "--out", str(out)]) == 2
    assert not (out / "a.jsonl").exists()
