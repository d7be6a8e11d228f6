"""Blocks of the runbooks: each is valid, and names only what the rendered chart and code have.

`tests/infra/run/deploy/test_runbooks.py` runs them on a cluster.
"""

import re
import shlex
import subprocess
from argparse import ArgumentParser
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

from infra.install.environment import ROOT
from services.feedback.commands import add_commands as add_feedback
from services.gateway.identity.key_commands import add_audit_command, add_key_commands
from services.gateway.identity.service_key_commands import add_identity_commands
from services.generator.commands import add_commands as add_generator
from services.review.commands import add_commands as add_review
from services.session.commands import add_commands as add_session
from tests.charts.rendering import of_kind, pods, render
from tests.infra.run.deploy.runbook_faults import FAULTS
from tests.support.runbooks import (
    LOOK,
    REFUSED,
    SLOW,
    Block,
    all_blocks,
    look,
    names,
    page_blocks,
    pages,
)

VALUES = (
    *("evaluation-values.yaml", "training.enabled=true", "ray.mode=kuberay", "backup.enabled=true"),
    *("backup.claim.existingClaim=backups", "backup.encryptionSecret=backup-key"),
)
SET = {"$namespace": "chat", "$release": "tw", "$name": "tw-thumbwheel"}
PROGRAMS = {"kubectl", "helm", "awk", "tail", "echo", "date"}
KEYWORDS = {"for", "do", "done"}
READING_VERBS = {"get", "describe", "logs", "events", "auth", "exec"}
READING_COMMANDS = {"rollout", "audit-log", "audit", "accounts list", "keys list", "spools"} | {
    "identity list",
    "orphans",
    "dead-letters",
    "refused",
}
# KServe creates the pods of versions, whose labels are those of the template of the chart.
KSERVE_CONTAINER = "kserve-container"
# Metrics of the Prometheus client, which docs/metrics.md does not list.
PROCESS = "process_cpu_seconds_total"
METRICS_PAGE = (ROOT / "docs" / "metrics.md").read_text()
LOOP = re.compile(r"for pod in \$\(kubectl .+? -l \$labels=(\S+)\); do\n(.+?)\ndone", re.DOTALL)
WORKLOAD = re.compile(r"\b(deployment|statefulset|cronjob)/([\w-]+)")
LOGS = re.compile(r"logs -l \$labels=([\w-]+)(?: -c ([\w-]+))?")
SERVICES = ("enhancer", "feedback", "gateway", "generator", "guardrail", "review", "session")


def filled(block: Block) -> str:
    """Return the commands with the names of the rendering and with the block's own default."""
    text = block.commands.replace("\\\n", "")
    default = re.search(r"^service=([\w-]+)", text, re.MULTILINE)
    values = {**SET, "$service": default[1]} if default else SET
    for name, value in values.items():
        text = text.replace(name, value)
    return text


def every_page() -> pytest.MarkDecorator:
    return pytest.mark.parametrize("page", pages(), ids=lambda page: page.stem)


@cache
def workloads() -> Mapping[str, Collection[str]]:
    """Return the containers of each workload, as `kind/name`."""
    objects = of_kind(render(*VALUES), "Deployment", "StatefulSet")
    found = {
        f"{one['kind'].lower()}/{one['metadata']['name']}": {
            container["name"] for container in one["spec"]["template"]["spec"]["containers"]
        }
        for one in objects
    }
    crons = of_kind(render(*VALUES), "CronJob")
    return found | {f"cronjob/{one['metadata']['name']}": () for one in crons}


@cache
def containers_of_components() -> Mapping[str, Collection[str]]:
    """Return the containers of all pods by the label of their component."""
    found: dict[str, set[str]] = {"predictor": {KSERVE_CONTAINER}}
    for pod in pods(render(*VALUES)).values():
        label = pod["metadata"]["labels"]["app.kubernetes.io/component"]
        found.setdefault(label, set()).update(one["name"] for one in pod["spec"]["containers"])
    return found


@cache
def metrics() -> Mapping[str, str]:
    """Return the names and labels of metrics by the heading of docs/metrics.md."""
    parts = METRICS_PAGE.split("\n## ")[1:]
    return {part.partition("\n")[0]: part for part in parts}


@cache
def sources(service: str) -> str:
    """Return the code of a service and of the parts that all services share."""
    folders = (ROOT / "services" / service, ROOT / "services" / "chassis")
    return "".join(file.read_text() for folder in folders for file in folder.rglob("*.py"))


def parsers() -> Mapping[str, Callable[[ArgumentParser], None]]:
    def add_gateway(parser: ArgumentParser) -> None:
        commands = parser.add_subparsers(dest="group")
        add_key_commands(commands.add_parser("keys"), "sqlite://")
        add_audit_command(commands.add_parser("audit-log"), "sqlite://")
        add_identity_commands(commands.add_parser("identity"))

    return {
        "gateway": add_gateway,
        "feedback": add_feedback,
        "generator": add_generator,
        "review": add_review,
        "session": add_session,
    }


def service_commands(text: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the service and the arguments of each command of the services."""
    for found in re.finditer(r"python3 -m services\.(\w+) ([^|\n]+)", text):
        yield found[1], shlex.split(found[2], comments=True)


def programs(text: str) -> Iterator[str]:
    """Yield the first word of each command, without texts in quotes and here-documents."""
    text = re.sub(r"<<'END'\n.*?\nEND\n", "\n", text.replace("\\\n", ""), flags=re.DOTALL)
    text = re.sub(r"'[^']*'|\"[^\"]*\"|#.*", "QUOTED", text)
    for command in re.split(r"[\n|;]|\$\(", text):
        words = [word for word in command.replace(")", " ").split() if "=" not in word]
        while words and words[0] in KEYWORDS:
            # The words of a loop are followed by its list, which is a command of its own.
            words = [] if words[0] == "for" else words[1:]
        if words and words[0] != "QUOTED":
            yield words[0]


@every_page()
def test_page_begins_with_a_block_that_only_reads(page: Path) -> None:
    blocks = list(page_blocks(page))
    assert blocks, "no block in the section On Kubernetes"
    assert blocks[0].mark == LOOK
    assert [block.mark for block in blocks[1:] if block.mark == LOOK] == []
    for verb in re.findall(r"kubectl (?:-n \S+ )?(\S+)", blocks[0].commands):
        assert verb in READING_VERBS
    for _, words in service_commands(filled(blocks[0])):
        assert {words[0], " ".join(words[:2])} & READING_COMMANDS, words
        assert not {"--publish", "--delete", "--forget"} & set(words)
    assert "helm" not in blocks[0].commands


@every_page()
def test_blocks_are_run_by_a_test_or_name_the_reason(page: Path) -> None:
    for block in page_blocks(page):
        assert block.is_quick or block.mark.startswith((SLOW, REFUSED))
        if block.mark.startswith(REFUSED):
            assert len(block.mark.removeprefix(REFUSED).split()) >= 3


@every_page()
def test_blocks_use_only_kubectl_helm_and_standard_tools(page: Path) -> None:
    for block in page_blocks(page):
        checked = subprocess.run(
            ["bash", "-n"], input=block.commands, capture_output=True, text=True, check=False
        )
        assert (checked.returncode, checked.stderr) == (0, "")
        assert set(programs(block.commands)) <= PROGRAMS


@every_page()
def test_blocks_name_workloads_and_containers_of_the_chart(page: Path) -> None:
    for block in page_blocks(page):
        text = filled(block)
        for kind, name in WORKLOAD.findall(text):
            assert f"{kind}/{name}" in workloads()
        for kind, name, container in re.findall(r"exec (?:-i )?(\w+)/(\S+) -c (\S+)", text):
            assert container in workloads()[f"{kind}/{name}"]
        for component, container in [*LOGS.findall(text), *loop_containers(text)]:
            assert component in containers_of_components()
            if container:
                assert container in containers_of_components()[component]
        listed = re.findall(r"\$labels in \((.+?)\)", text)
        named = [*re.findall(r"\$labels=(\w[\w-]*)", text), *", ".join(listed).split(", ")]
        assert {name for name in named if name} <= containers_of_components().keys()
        for claim in re.findall(r"claim/(\S+)", text):
            assert claim in {one["metadata"]["name"] for one in render(*VALUES)}


def loop_containers(text: str) -> Iterator[tuple[str, str]]:
    """Yield the component of each loop over pods, and the container in which it runs commands."""
    for component, body in LOOP.findall(text):
        found = re.search(r" -c ([\w-]+)", body)
        yield component, found[1] if found else ""


@every_page()
def test_blocks_ask_for_metrics_and_lines_that_exist(page: Path) -> None:
    for block in page_blocks(page):
        text = filled(block)
        for component, body in LOOP.findall(text):
            for pattern in re.findall(r"thumbwheel_cli\.metrics '(.+?)'", body):
                there = "".join((metrics().get(component, ""), metrics()["every service"], PROCESS))
                for part in pattern.split("|"):
                    assert re.search(part.partition(".*")[0], there), f"{component} has no {part}"
        for component, pattern in re.findall(r"logs -l \$labels=(\w+) .*?\|\s+awk '/(.+?)/'", text):
            for phrase in pattern.split("|"):
                assert re.search(phrase.partition(".*")[0], sources(component)), phrase


@every_page()
def test_commands_of_services_are_accepted(page: Path) -> None:
    for block in page_blocks(page):
        for service, words in service_commands(filled(block)):
            parser = ArgumentParser()
            parsers()[service](parser)
            parser.parse_args(words)


def test_names_are_set_by_the_block_of_the_start_page() -> None:
    commands = names()
    subprocess.run(["bash", "-n"], input=commands, text=True, check=True)
    known = set(re.findall(r"^(\w+)=|(?<= )(\w+)=(?=\w+$)", commands, re.MULTILINE))
    given = {name for pair in known for name in pair if name}
    assert given == {"namespace", "release", "labels", "name"}
    for block in all_blocks():
        own = set(re.findall(r"\b(\w+)=|for (\w+) in", block.commands))
        used = set(re.findall(r"\$(\w+)", re.sub(r"'[^']*'", "", block.commands)))
        assert used <= given | {name for pair in own for name in pair}, block


def test_ten_alerts_are_tried_with_their_faults() -> None:
    alerts = [alert for fault in FAULTS.values() for alert in fault.evidence]
    assert len(set(alerts)) == len(alerts) >= 10
    for fault in FAULTS.values():
        for alert in fault.evidence:
            for replaced in fault.changes:
                assert replaced in look(alert).commands


@pytest.mark.parametrize("name", FAULTS)
def test_evidence_of_a_fault_is_a_metric_that_the_block_asks_for(name: str) -> None:
    documented = {
        row[1]: sorted(re.findall(r"`(\w+)`", row[2]))
        for row in re.finditer(r"^\| `(\w+)` \| \w+ \|(.*?)\|", METRICS_PAGE, re.MULTILINE)
    }
    for alert, pattern in FAULTS[name].evidence.items():
        for suffix, labels in re.findall(r"([a-z]+_[a-z_]+)(\\\{\S*\\\})? ", pattern):
            (metric,) = [one for one in documented if one.endswith(suffix)]
            named = re.findall(r'(\w+)="', labels)
            assert named == sorted(set(named) & set(documented[metric])), f"{alert}: {metric}"
            assert bool(labels) == bool(documented[metric]), f"{alert}: {metric}"
            asked = re.findall(r"thumbwheel_cli\.metrics '(.+?)'", look(alert).commands)
            parts = [part.partition(".*")[0] for one in asked for part in one.split("|")]
            assert [part for part in parts if part in metric], f"{alert} does not show {metric}"


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_has_a_page_that_reads_its_metrics(service: str) -> None:
    assert [block for block in all_blocks() if service in dict(loop_containers(filled(block)))]
