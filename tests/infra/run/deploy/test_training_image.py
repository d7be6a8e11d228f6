"""Jobs of the whole training image on a real cluster: a corpus from a crawl, runs of the loop."""

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from infra.run.deploy.release import CHART
from infra.run.deploy.storage import SHARED, volume_of
from infra.run.deploy.training import RayMode, chart_values
from tests.infra.run.deploy import page
from tests.infra.run.deploy.clusters import TRAINING_RUNS, deployed_cluster
from tests.infra.run.deploy.cron_jobs import CronJob
from tests.infra.run.deploy.deployed import Deployed, until
from tests.infra.run.deploy.loop_runs import TRAINING, LoopRuns
from tests.infra.run.deploy.models import NANO, claim_folder
from tests.infra.run.deploy.raters import fill_bucket, keys, rate_while
from tests.support.archives import HEAD, gzip_members, warc_record
from tests.training.data_path.corpora import article, build_quietly, content
from training.corpus.document import Stage
from training.corpus.quality.url_lists import packaged_lists
from training.data_path.config import read_config
from training.data_path.log import RESULT
from training.data_path.pipeline import REPORT

pytestmark = [*TRAINING_RUNS, pytest.mark.long]
# Time limits for a machine with other load.
DEPLOY_SECONDS, STEP_SECONDS, TURN_SECONDS = 1800.0, 300.0, 1500.0
PACKAGES = "copy data packages into a claim"
PROFILE = "sandbox.json"
# Their full lists take half a minute each with nano.
BENCHMARKS = {"piqa": 1_838, "humaneval": 164}
IN_GATE: Mapping[str, Any] = {
    "training": {
        "benchmarks": {"tasks": list(BENCHMARKS), "items": {"existingClaim": "data-packages"}}
    }
}
WITH_SANDBOX: Mapping[str, Any] = {
    "training": {
        "securityContext": {"seccompProfile": {"type": "Localhost", "localhostProfile": PROFILE}}
    }
}


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    """Separate cluster where Jobs run in the whole training image, and a claim with data packages.

    Other tests do not load the image.
    """
    packaged_lists()
    state = tmp_path_factory.mktemp("jobs") / "cluster"
    words = ("--training", "job", "--whole")
    with deployed_cluster(
        state, "the training image is not tried on a real cluster", *words, seconds=DEPLOY_SECONDS
    ) as found:
        page.run(found, PACKAGES, tmp_path_factory.mktemp("page"), found.values())
        yield found


@pytest.fixture
def runs(deployed: Deployed) -> LoopRuns:
    return LoopRuns(deployed)


def configure(deployed: Deployed, *changes: Mapping[str, Any]) -> None:
    """Change the configuration of Jobs of the release."""
    images = deployed.images("training")
    deployed.install(chart_values(RayMode.JOB, whole=True), images, *changes)


# A corpus.

# While a worker cleans the first file for ten seconds, the others get clean and the pod is killed.
FILES, PAGES, PAGES_OF_FIRST = 6, 50, 12_000
CORPUS = """
licence = "CC0-1.0"

[[sources]]
name = "docs"
folder = "{input}"
files = ["*.warc.gz"]
licence = "CC0-1.0"

[quality]
groups = []

[shards]
tokenizer = "{tokenizer}"
held_out_fraction = 0.3
"""
# A connection to feedback, which accepts those of the gateway.
CONNECT = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], 50056), 5).close()
    print("connected")
except OSError as error:
    print("refused", error)
"""


def corpus_values(text: str) -> Mapping[str, Any]:
    return {
        "corpus": {
            "enabled": True,
            "config": text,
            "input": {"existingClaim": "shared", "subPath": "crawl/latest"},
            "output": {"existingClaim": "shared", "subPath": "corpus"},
            "data": {"existingClaim": "data-packages"},
            "workers": 2,
            "resources": {"requests": {"cpu": "100m", "memory": "512Mi"}},
        }
    }


@pytest.fixture(scope="module")
def shared(deployed: Deployed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a claim with a small crawl."""
    folder = tmp_path_factory.mktemp("shared")
    write_crawl(folder / "crawl")
    deployed.kubectl(
        "apply", "-f", "-", stdin=volume_of(folder, "shared", deployed.namespace, SHARED)
    )
    return folder


def write_crawl(folder: Path) -> None:
    """Write archives and the link to the crawl, as `thumbwheel data crawl`."""
    (folder / "0001").mkdir(parents=True)
    (folder / "latest").symlink_to("0001")
    for file in range(FILES):
        pages = PAGES if file else PAGES_OF_FIRST
        numbers = range(file * PAGES_OF_FIRST, file * PAGES_OF_FIRST + pages)
        records = [page_record(number, f"https://example.org/{number}") for number in numbers]
        # A page of a listed domain, and a copy of the first page.
        records += [page_record(file, f"https://playboy.com/{file}")]
        records += [page_record(0, f"https://example.net/{file}")]
        (folder / "0001" / f"pages-{file:05}.warc.gz").write_bytes(b"".join(gzip_members(records)))


def page_record(number: int, url: str) -> bytes:
    text = f"{article(number)} Write to person{number}@example.org."
    return warc_record(HEAD + f"\r\n<html><body><p>{text}</p></body></html>".encode(), url)


def test_interrupted_corpus_is_continued(deployed: Deployed, shared: Path, tmp_path: Path) -> None:
    """Kill the pod in the middle; the result has the bytes of an uninterrupted build elsewhere."""
    configure(deployed, corpus_values(CORPUS.format(input="/input", tokenizer="/models/nano-0")))
    builds, out = CronJob(deployed, "corpus"), shared / "corpus"
    deployed.kubectl("create", "job", f"--from=cronjob/{deployed.name}-corpus", "build-1")
    until("its pod is there", lambda: bool(builds.pods_of("build-1")))
    first = builds.pods_of("build-1")[0]["metadata"]["name"]
    until("files are clean", lambda: len(records_of(out)) >= 2, STEP_SECONDS)
    # Directly: on a busy machine the deletion of a pod takes longer than the first file.
    deployed.shell.run("pkill", "-KILL", "-f", "training.corpus build /config")
    before = records_of(out)
    assert 2 <= len(before) < FILES
    until("another pod runs", lambda: bool(running_pods(builds, first)), STEP_SECONDS)
    check_network(deployed, running_pods(builds, first)[0])
    assert not (out / RESULT).exists()
    assert builds.wait_ended("build-1", STEP_SECONDS) == "Complete", builds.log("build-1")
    after = records_of(out)
    assert len(after) == FILES
    assert before.items() <= after.items()  # not cleaned again
    assert "<html" in (out / RESULT / REPORT).read_text()

    config = tmp_path / "corpus.toml"
    config.write_text(CORPUS.format(input=shared / "crawl" / "latest", tokenizer=NANO))
    summary = build_quietly(read_config(config), tmp_path / "whole")
    assert content(out) == content(tmp_path / "whole")
    assert summary.sizes(Stage.URL)["documents"] == FILES
    assert summary.sizes(Stage.EXACT_DUPLICATE)["documents"] == FILES
    assert summary.redacted["email"] >= summary.kept > 0


def check_network(deployed: Deployed, pod: str) -> None:
    """Check that the pod reaches nothing at an address that accepts the gateway."""
    feedback = f"{deployed.name}-feedback"
    connected = deployed.kubectl("exec", pod, "--", "python3", "-c", CONNECT, feedback)
    assert connected.startswith("refused")
    assert deployed.python("gateway", "-c", CONNECT, feedback).strip() == "connected"


def running_pods(builds: CronJob, killed: str) -> list[str]:
    """Return the names of running pods without the killed one, which may still be listed."""
    found = [pod for pod in builds.pods_of("build-1") if pod["status"]["phase"] == "Running"]
    return [pod["metadata"]["name"] for pod in found if pod["metadata"]["name"] != killed]


def records_of(corpus: Path) -> dict[str, int]:
    """Return the time of writing of each cleaned file."""
    found = (path for path in (corpus / "work").glob("*.json") if path.name.count(".") == 1)
    return {path.name: path.stat().st_mtime_ns for path in found}


def test_wrong_setting_of_a_corpus_is_not_retried(deployed: Deployed, shared: Path) -> None:
    configure(deployed, corpus_values("[[sources]]\nname = 1\n"))
    builds = CronJob(deployed, "corpus")
    builds.start_run("build-2")
    assert builds.wait_ended("build-2", STEP_SECONDS) == "Failed"
    assert "sources.0.name" in builds.log("build-2")
    assert len(builds.pods_of("build-2")) == 1


# Runs of the loop.


def test_too_little_feedback_completes_without_failure(runs: LoopRuns) -> None:
    runs.start_run("turn-0")
    assert runs.wait_ended("turn-0", STEP_SECONDS) == "Complete"
    assert runs.status()["result"] == "not_enough_feedback"
    assert runs.status()["needed_thumbs"] == 200


def test_sandbox_without_its_profile_is_refused_before_training(runs: LoopRuns) -> None:
    configure(runs.deployed, IN_GATE, {"training": {"retries": 0}})
    runs.start_run("turn-without-profile")
    assert runs.wait_ended("turn-without-profile", STEP_SECONDS) == "Failed"
    reason = runs.status()["reason"]
    assert "humaneval" in reason
    assert "training.securityContext" in reason


def test_thumbs_lead_to_a_promoted_version(runs: LoopRuns) -> None:
    """Kill the training pod in the middle, and request a second run.

    Benchmarks are rows of the gate.
    """
    profiles = runs.deployed.shell.layout.data / "kubelet" / "seccomp"
    profiles.mkdir(exist_ok=True)
    shutil.copyfile(CHART / "files" / "sandbox-seccomp.json", profiles / PROFILE)
    configure(runs.deployed, IN_GATE, WITH_SANDBOX)
    people = keys(runs.deployed)
    fill_bucket(runs.deployed, people)
    runs.start_run("turn-1")
    kill_training_pod(runs)
    check_second_run_is_rejected(runs)
    # Thumbs are not needed before the canary.
    until(
        "the canary begins",
        lambda: runs.status().get("step") == "canary" or bool(runs.ended("turn-1")),
        TURN_SECONDS,
    )
    trial = rate_while(runs.deployed, people, lambda: not runs.ended("turn-1"), TURN_SECONDS)
    assert runs.wait_ended("turn-1", STEP_SECONDS) == "Complete"
    status = runs.status()
    assert (status["run"], status["result"]) == ("nano-1", "promoted"), json.dumps(status, indent=1)
    assert [step["state"] for step in status["steps"]] == ["done"] * len(status["steps"])
    assert "resumed with" in status["steps"][0]["detail"]
    assert trial.by_version.get("nano-1", 0) > 0
    assert runs.has_result("promoted")
    assert runs.served_version() == "nano-1"
    check_benchmarks(runs)


def check_benchmarks(runs: LoopRuns) -> None:
    """Check the rows of the gate: all items of both versions; nano is at chance in PIQA."""
    loop = claim_folder(runs.deployed, f"{runs.deployed.name}-loop")
    gate = json.loads((loop / "runs" / "nano-1" / "gate.json").read_text())
    found = {row["name"]: row for row in gate["checks"]}
    assert {name: found[name]["figures"]["items"] for name in BENCHMARKS} == BENCHMARKS
    assert found["piqa"]["result"] == "uninformative"
    assert 0.45 < found["piqa"]["figures"]["candidate"] < 0.55
    assert found["humaneval"]["result"] == "pass"


def kill_training_pod(runs: LoopRuns) -> None:
    """Kill the pod; its replacement waits for the lock and resumes."""
    until("it trains", lambda: runs.status().get("step") in TRAINING, TURN_SECONDS)
    (pod,) = runs.pods_of("turn-1")
    runs.deployed.kubectl("delete", "pod", pod["metadata"]["name"], "--grace-period=0", "--force")
    until(
        "the next one has taken it up", lambda: "resumed with" in runs.log("turn-1"), STEP_SECONDS
    )


def check_second_run_is_rejected(runs: LoopRuns) -> None:
    """Check that a second run fails with a single line and without a retry."""
    runs.start_run("turn-2", "--patience", "1s")
    assert runs.wait_ended("turn-2", STEP_SECONDS) == "Failed"
    assert re.search(r"\b1\b.*\bnano\b.*\b20\d\d-", runs.log("turn-2")), (
        "which process and recipe, and since when"
    )
    assert len(runs.pods_of("turn-2")) == 1
