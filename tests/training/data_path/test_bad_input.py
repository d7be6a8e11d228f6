"""Bad input in a build: each record is bounded and named in the log, and no other one is lost."""

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.training.data_path.bad_input import BadInput, write_bad_input
from tests.training.data_path.corpora import documents
from training.corpus.__main__ import main
from training.corpus.document import Stage
from training.data_path.log import entries
from training.data_path.summary import Summary

ROOT = Path(__file__).resolve().parents[3]
SETTINGS = """
url_categories = []
decontaminate = false
[[sources]]
name = "web"
folder = "in"
max_record_bytes = {limit}
[quality]
groups = []
"""
# The program, and its highest memory at the end.
MEASURED = """
import sys
from pathlib import Path
from training.corpus.__main__ import main
status = main(sys.argv[1:])
print(Path("/proc/self/status").read_text())
sys.exit(status)
"""
MEBIBYTE = 1 << 20


def check(out: Path, found: BadInput, capsys: pytest.CaptureFixture[str]) -> None:
    """Check log, counts and documents of a build, and `thumbwheel data why` for each record."""
    log = list(entries(out / "result" / "log"))
    by_url = dict.fromkeys(found.good, (Stage.KEPT, "")) | found.bad
    assert {one.url: (one.stage, one.rule) for one in log if one.url} == by_url
    nameless = [(one.stage, one.rule) for one in log if not one.url]
    assert sorted(nameless) == sorted(found.bad_without_url)
    assert len(log) == len(by_url) + len(nameless)
    summary = Summary.read(out / "result" / "summary.json")
    counted = {
        (stage, rule): counts["documents"]
        for stage, rules in summary.stages.items()
        for rule, counts in rules.items()
    }
    assert counted == Counter([*by_url.values(), *found.bad_without_url])
    assert sorted(row["url"] for row in documents(out)) == sorted(found.good)
    capsys.readouterr()
    for entry in log:
        assert main(["why", entry.url or entry.id, "--corpus", str(out)]) == 0
        said = capsys.readouterr().out
        named = f"dropped by stage {entry.stage}, rule {entry.rule}"
        assert ("kept, as document" if entry.stage == Stage.KEPT else named) in said


def test_bad_records_are_named_and_no_good_one_is_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = write_bad_input(tmp_path / "in", 66 * MEBIBYTE)
    (tmp_path / "corpus.toml").write_text(SETTINGS.format(limit=MEBIBYTE))
    out = tmp_path / "corpus"
    assert main(["build", str(tmp_path / "corpus.toml"), "--out", str(out), "--workers", "1"]) == 0
    check(out, found, capsys)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_records_of_a_gigabyte_are_not_held_in_memory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = write_bad_input(tmp_path / "in", 1024 * MEBIBYTE)
    (tmp_path / "corpus.toml").write_text(SETTINGS.format(limit=16 * MEBIBYTE))
    out = tmp_path / "corpus"
    command = [sys.executable, "-c", MEASURED, "build", str(tmp_path / "corpus.toml")]
    done = subprocess.run(
        [*command, "--out", str(out), "--workers", "1"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    peak = int(re.findall(r"VmHWM:\s+(\d+) kB", done.stdout)[0]) * 1024
    assert peak < 512 * MEBIBYTE
    check(out, found, capsys)
