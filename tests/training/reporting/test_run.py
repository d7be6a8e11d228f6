"""Report of a run."""

from pathlib import Path

import pytest

from durable_files.files import write_json
from training.artifacts.lineage import Ancestry
from training.artifacts.manifest import write_manifest
from training.reporting.run import write_report
from training.runs import RECORD


@pytest.mark.parametrize(("judges_are", "warned"), [("answers", True), ("users", False)])
def test_few_users_are_reported_as_a_warning(tmp_path: Path, judges_are: str, warned: bool) -> None:
    """Finding S-10: with fewer than five users the gate measured agreement with the attacker."""
    snapshot, sets = tmp_path / "snapshot", tmp_path / "run" / "v1-sets"
    for directory in (snapshot, sets):
        directory.mkdir(parents=True)
        (directory / "judgements.jsonl").write_text("")
    found = dict.fromkeys(
        ("judgements", "thumbs_up", "thumbs_down", "corrections", "principals"), 1
    )
    write_manifest(snapshot, kind="snapshot", version="s1", report={**found, "dropped": {}})
    write_manifest(sets, kind="sets", version="v1-sets", report={"judges_are": judges_are})
    write_json(
        tmp_path / "run" / RECORD,
        {"version": "v1", "recipe": "nano", "incumbent": "v0", "started": "2026-11-28"},
    )
    page = write_report(
        tmp_path / "run", snapshot, None, Ancestry("v1", "candidate", "s1", 0, (), ())
    )
    assert ("Fewer than 5 users" in page.read_text()) is warned
