"""The commands build, why and remove, as a user runs them."""

import contextlib
import io
import re
import shutil
from pathlib import Path

import pytest

from tests.training.data_path.corpora import page, write_table
from training.artifacts.manifest import Manifest, read_manifest, write_manifest
from training.corpus.__main__ import main
from training.data.token_shards import SHARDS_HASH, shards_hash
from training.data_path import removal

NANO = Path(__file__).resolve().parents[3] / "models" / "nano"
SETTINGS = """
url_categories = []
decontaminate = false
[[sources]]
name = "web"
folder = "in"
licence = "CC0-1.0"
[quality]
groups = []
[shards]
vocabulary = 400
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return a folder with inputs, settings and a corpus, and what the build has printed."""
    folder, printed = tmp_path_factory.mktemp("built"), io.StringIO()
    pages = [page(number) for number in range(9)]
    pages.append(page(3) | {"url": "https://copies.example.com/3"})
    pages[8]["text"] += " Write to jane.doe@example.com or to joe@example.com, not to both of them."
    write_table(folder / "in" / "a.jsonl", pages)
    (folder / "corpus.toml").write_text(SETTINGS)
    command = ["build", str(folder / "corpus.toml"), "--out", str(folder / "corpus")]
    with contextlib.redirect_stdout(printed):
        assert main([*command, "--workers", "1"]) == 0
    return folder, printed.getvalue()


@pytest.fixture
def corpus(built: tuple[Path, str], tmp_path: Path) -> Path:
    """Return a copy of the corpus; its settings name the inputs of the original."""
    shutil.copytree(built[0], tmp_path, dirs_exist_ok=True)
    return tmp_path / "corpus"


def test_build_prints_the_funnel_and_the_places_of_the_result(built: tuple[Path, str]) -> None:
    folder, said = built
    assert "records                     10" in said
    assert "exact duplicate             -1  10.0%" in said
    assert f"shards: {folder}/corpus/result/shards" in said


def test_why_names_the_verdict(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pair = ["https://copies.example.com/3", "https://example.org/3"]
    texts = []
    for url in pair:
        assert main(["why", url, "--corpus", str(corpus)]) == 0
        texts.append(capsys.readouterr().out)

    dropped, kept = sorted(texts, key=lambda text: "kept" in text)
    assert "dropped as exact duplicate of https://" in dropped
    assert "kept, as document" in kept
    assert main(["why", "https://example.org/unknown", "--corpus", str(corpus)]) == 1


def test_why_names_the_kinds_of_replaced_personal_data(
    corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, replaced in ((8, True), (7, False)):
        assert main(["why", f"https://example.org/{number}", "--corpus", str(corpus)]) == 0
        said = capsys.readouterr().out
        assert ("personal data replaced: 2 email" in said, "kept" in said) == (replaced, True)


@pytest.mark.parametrize(
    "url", ["HTTPS://Example.ORG:443/1", "https://example.org/1/", "https://example.org/x/../1#top"]
)
def test_why_finds_other_spellings_of_a_url(
    built: tuple[Path, str], capsys: pytest.CaptureFixture[str], url: str
) -> None:
    assert main(["why", url, "--corpus", str(built[0] / "corpus")]) == 0
    assert capsys.readouterr().out.startswith("https://example.org/1 (")


def test_why_reads_the_log_of_a_crawl(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of two crawls the last one is read, and its log is no table of texts."""
    for name, numbers in (("0001", (1, 2)), ("0002", (2, 3))):
        write_table(tmp_path / "in" / name / "pages.jsonl", [page(number) for number in numbers])
    fate = {"url": "https://example.org/private", "fate": "robots", "value": "Disallow: /private"}
    write_table(tmp_path / "in" / "0002" / "log.jsonl", [fate])
    (tmp_path / "in" / "latest").symlink_to("0002")
    (tmp_path / "corpus.toml").write_text(SETTINGS)
    out = str(tmp_path / "corpus")
    main(["build", str(tmp_path / "corpus.toml"), "--out", out, "--workers", "1"])
    assert "records                      2" in capsys.readouterr().out

    for url in ("https://example.org/private", "https://EXAMPLE.org/private/"):
        assert main(["why", url, "--corpus", out]) == 0
        assert "not downloaded by the crawl, robots: Disallow: /private" in capsys.readouterr().out
    assert main(["why", "https://example.org/1", "--corpus", out]) == 1


def test_remove_says_what_remains(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = str(corpus.parent)
    arguments = ["--corpus", str(corpus), "--models", models]

    assert main(["remove", "--host", "Example.org", *arguments]) == 0

    said = capsys.readouterr().out
    assert "no model in" in said
    assert "1 remain" in said


def test_remove_names_the_folders_of_the_models(
    corpus: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = corpus.parent / "models" / "a" / "base"
    model.mkdir(parents=True)
    (model / "weights").write_text("")
    data = {SHARDS_HASH: shards_hash(corpus / "result" / "shards")}
    write_manifest(model, kind="model", version="base", data=data)
    read: list[Path] = []

    def read_once(folder: Path) -> Manifest:
        read.append(folder)
        return read_manifest(folder)

    monkeypatch.setattr(removal, "read_manifest", read_once)
    arguments = ["--corpus", str(corpus), "--models", str(corpus.parent / "models")]

    assert main(["remove", "--url", "https://example.org:443/1/", *arguments]) == 0

    assert f"  base: {model}\n" in capsys.readouterr().out
    assert read == [model]


@pytest.mark.parametrize(
    ("host", "corpus_name", "models", "named"),
    [
        # A misspelled folder is no evidence that no model saw a document.
        ("example.org", "corpus", "modles", "models: "),
        (
            "https://example.org/1",
            "corpus",
            "corpus",
            "host: https://example.org/1 is no host name",
        ),
        ("example.org:8080", "corpus", "corpus", "host: example.org:8080 is no host name"),
        ("example.org", "in", "corpus", "corpus: "),
    ],
)
def test_impossible_removal_is_not_recorded(
    corpus: Path,
    host: str,
    corpus_name: str,
    models: str,
    named: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = corpus.parent
    arguments = ["--corpus", str(folder / corpus_name), "--models", str(folder / models)]

    assert main(["remove", "--host", host, *arguments]) == 2

    assert named in capsys.readouterr().err
    assert not list(folder.rglob("removals.jsonl"))


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("[quality]", '[language]\nkeep = ["xx"]\n[quality]', "language.keep: 'xx'"),
        ("vocabulary = 400", 'tokenizer = "nowhere"', "shards.tokenizer: "),
        ('folder = "in"', 'folder = "inn"', "folder: "),
    ],
)
def test_impossible_settings_are_refused_before_any_file(
    old: str, new: str, named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_table(tmp_path / "in" / "a.jsonl", [page(1)])
    (tmp_path / "corpus.toml").write_text(SETTINGS.replace(old, new))
    out = tmp_path / "corpus"

    assert main(["build", str(tmp_path / "corpus.toml"), "--out", str(out)]) == 2

    assert named in capsys.readouterr().err
    assert not out.exists()


def test_other_sources_are_refused_unless_replaced(
    corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_table(corpus.parent / "other" / "a.jsonl", [page(30)])
    other = corpus.parent / "other.toml"
    # Without shards the build takes less time.
    other.write_text(SETTINGS.replace('"in"', '"other"').partition("[shards]")[0])
    command = ["build", str(other), "--out", str(corpus), "--workers", "1"]

    assert main(command) == 2
    assert "--replace" in capsys.readouterr().err
    assert main([*command, "--replace"]) == 0


def test_refused_folders_stay_as_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_table(tmp_path / "in" / "a.jsonl", [page(1)])
    (tmp_path / "corpus.toml").write_text(SETTINGS)
    build = ["build", str(tmp_path / "corpus.toml"), "--out"]

    assert main([*build, str(tmp_path / "in")]) == 2
    assert "a.jsonl, which is no part of a corpus" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["a.jsonl"]
    assert main([*build, str(tmp_path / "corpus.toml" / "corpus")]) == 2
    assert "cannot be written (Not a directory)" in capsys.readouterr().err


def test_unusable_folder_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["why", "x", "--corpus", str(tmp_path)]) == 2
    assert "has no document log" in capsys.readouterr().err


@pytest.mark.parametrize("shards", ["vocabulary = 400", f'tokenizer = "{NANO}"'])
def test_nothing_kept_gives_log_and_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], shards: str
) -> None:
    write_table(tmp_path / "in" / "a.jsonl", [{"text": "", "url": "https://example.com/"}])
    (tmp_path / "corpus.toml").write_text(SETTINGS.replace("vocabulary = 400", shards))
    out = tmp_path / "corpus"
    assert main(["build", str(tmp_path / "corpus.toml"), "--out", str(out), "--workers", "1"]) == 1
    said = capsys.readouterr().out
    assert "no text remained" in said
    assert re.search(r"-1 +100.0% +1 by \S", said)
    assert (out / "result" / "report.html").exists()
    assert not (out / "result" / "shards").exists()
    assert main(["why", "https://example.com/", "--corpus", str(out)]) == 0


def test_log_of_an_earlier_release_is_refused(
    corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(corpus / "result" / "log" / "ids")
    assert main(["why", "https://example.com/unknown", "--corpus", str(corpus)]) == 2
    assert "build it again" in capsys.readouterr().err


def test_report_shows_the_funnel(corpus: Path) -> None:
    page_text = (corpus / "result" / "report.html").read_text()

    assert "9 of 10 records kept" in page_text
    assert "exact duplicate" in page_text
    assert re.search(r" – kept: https://(copies\.example\.com|example\.org)/3</p>", page_text)
    assert "CC0-1.0" in page_text
    assert " 0 B of input" not in page_text
    for phase in ("prepare", "clean", "duplicates", "finish", "documents", "tokenizer", "tokenize"):
        assert f"<td>{phase}</td>" in page_text
