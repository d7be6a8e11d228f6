"""docs/adding-a-service.md is complete: its steps make a service in a copy of the repository.

The copy contains the code without the page of the browser. Everything in the copy runs in processes
of its own, with the copy in front of this repository on the path.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from grpc_health.v1 import health_pb2, health_pb2_grpc

from infra.docs.settings import HEAD
from tests.charts.rendering import component, helm, of_kind, parse

ROOT = Path(__file__).resolve().parents[2]
GUIDE = ROOT / "docs" / "adding-a-service.md"
COPIED = (
    *(
        "proto",
        "gen",
        "sequential",
        "chat_format",
        "durable_files",
        "services",
        "training",
        "infra",
        "charts",
    ),
    *("human_evaluation", "s3_credentials", "secret_detection", "thumbwheel_cli", "locks"),
    *("tests/architecture", "tests/services/gateway", "tests/support"),
)
FILES = ("pyproject.toml", "tests/conftest.py", "tests/__init__.py")
# Places that a new service changes outside its folder, and files that commands generate.
EDITED = {
    "proto/thumbwheel/echo/v1/echo.proto",
    "services/services.toml",
    "charts/thumbwheel/values.yaml",
}
GENERATED = {
    *("docs/settings.md", "docs/metrics.md", "Containerfile", ".dockerignore"),
    *("charts/thumbwheel/README.md", "charts/thumbwheel/values.schema.json"),
    "charts/thumbwheel/files/services.yaml",
}
FACTS = """calls = ["session", "predictor"]
keys = ["principal-key", "master-key"]
database = { driver = "postgresql+pg8000", file = "sqlite:///echo/echo.db" }
valkey = true
kafka = true
objects = true
prepare = ["migrate"]
"""
SETTINGS_OF_FACTS = "SESSION_TARGET PREDICTOR_URL PRINCIPAL_KEY MASTER_KEY DATABASE_URL".split()
SETTINGS_OF_SERVERS = (
    *("VALKEY_URL", "VALKEY_SECRET", "KAFKA_BOOTSTRAP", "PARTITIONS", "REPLICATION_FACTOR"),
    *("S3_ENDPOINT", "S3_BUCKET", "S3_ACCESS_KEY", "S3_SECRET_KEY"),
)
# Prints programs and their environment in both layouts, with a model of the test.
LAYOUTS = """
import json, sys
from pathlib import Path
from infra.run.embedded.layout import Layout, free_ports, programs
from infra.machine.servers.fleet import assemble, choose_ports
from infra.run.stack.layout import StackLayout, metrics_targets, stack_ports
from infra.run.supervision.terminal import colours

state = Path(sys.argv[1])
model = state / "model"
model.mkdir(parents=True, exist_ok=True)
(model / "config.json").write_text('{"max_position_embeddings": 256}')
embedded = Layout(state / "embedded", free_ports())
run = Layout(state / "stack", stack_ports(0, 0))
embedded.prepare(), run.prepare()
targets = metrics_targets(run.ports)
servers = state / "stack" / "servers"
for name in ("postgres", "valkey", "s3"):
    (servers / name).mkdir(parents=True)
fleet = assemble(servers, choose_ports(servers, 1, usual=False), targets)
found = {
    program.name: {"command": program.command, "environment": dict(program.environment)}
    for program in (*programs(embedded, model), *StackLayout(run, fleet).programs(model))
}
print(json.dumps({"programs": found, "targets": targets, "colours": colours()}))
"""


class Copy:
    """A copy of the repository in which commands run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            **os.environ,
            "PYTHONPATH": f"{folder}:{folder / 'gen'}",
            "PYTHONDONTWRITEBYTECODE": "",
        }

    def run(self, *command: str) -> str:
        """Run a command in the copy and return its output."""
        result = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert result.returncode == 0, f"{command}: {result.stdout}{result.stderr}"
        return result.stdout

    def layouts(self, state: Path) -> Any:
        """Return programs, scrape targets and colours of the layouts."""
        return json.loads(self.run(sys.executable, "-c", LAYOUTS, str(state)))

    def render(self, values: str) -> list[Mapping[str, Any]]:
        """Return the objects of the chart of the copy with a values file of `ci/`."""
        chart = self.folder / "charts" / "thumbwheel"
        result = helm("template", "tw", str(chart), "-f", str(chart / "ci" / values))
        assert result.returncode == 0, result.stderr
        return list(parse(result.stdout))


def copy_repository(folder: Path) -> Copy:
    """Copy the code with its bytecode, which stays valid because times are copied as well."""
    ignored = shutil.ignore_patterns("node_modules", "src")
    for name in COPIED:
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in FILES:
        if (ROOT / name).exists():
            shutil.copy2(ROOT / name, folder / name)
    for name in GENERATED:
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    (folder / ".venv").symlink_to(sys.prefix)
    return Copy(folder)


def steps(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield file, language and text of each block of code; the file is "" for commands."""
    for before, language, code in re.findall(r"([^\n]*)\n\n```(\w+)\n(.*?)```", text, re.DOTALL):
        named = re.findall(r"^`([\w./-]+)`", before)
        yield named[0] if named else "", language, code


def contents(folder: Path) -> dict[str, bytes]:
    """Return all files of the copy that a change could touch, by relative path."""
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }


@pytest.fixture(scope="module")
def changed() -> set[str]:
    """Files that the steps of the page changed or created."""
    return set()


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory, changed: set[str]) -> Copy:
    """Return a copy of the repository after the steps of the page."""
    copy = copy_repository(tmp_path_factory.mktemp("adding") / "copy")
    before = contents(copy.folder)
    for name, language, code in steps(GUIDE.read_text()):
        file = copy.folder / name
        if language == "bash":
            commands = code.replace("make check\n", "")
            copy.run("bash", "-ec", commands)
        elif language == "toml":
            file.write_text(f"{file.read_text()}\n{code}")
        elif language == "yaml":
            text = file.read_text()
            assert text.count("\nservices:\n") == 1
            file.write_text(text.replace("\nservices:\n", f"\nservices:\n{code}"))
        else:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(code)
    after = contents(copy.folder)
    changed |= {name for name in after if after[name] != before.get(name)}
    return copy


@pytest.fixture(scope="module")
def layouts(copy: Copy, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return copy.layouts(tmp_path_factory.mktemp("layouts"))


def test_three_places_outside_the_folder_change(copy: Copy, changed: set[str]) -> None:
    stubs = {name for name in changed if name.startswith("gen/thumbwheel/echo/")}
    own = {name for name in changed if name.startswith("services/echo/")}
    assert stubs and own
    assert changed - stubs - own - GENERATED == EDITED


def test_both_layouts_start_the_service_with_ports_and_settings(layouts: Any) -> None:
    programs = layouts["programs"]
    order = list(programs)
    assert order.index("echo") < order.index("gateway")
    ports = set()
    for name in ("echo", "echo-1", "echo-2"):
        assert programs[name]["command"][1:] == ["-m", "services.echo"]
        environment = programs[name]["environment"]
        names = {"TW_ECHO_HOST", "TW_ECHO_PORT", "TW_ECHO_METRICS_PORT", "TW_ECHO_IDENTITY_KEYS"}
        assert set(environment) - {"TW_ECHO_DRAIN_SECONDS"} == names
        ports |= {environment["TW_ECHO_PORT"], environment["TW_ECHO_METRICS_PORT"]}
    assert len(ports) == 6
    assert len(layouts["targets"]["echo"]) == 2
    assert len(set(layouts["colours"].values())) == len(layouts["colours"])


def test_service_starts_and_answers_its_health_check(copy: Copy, layouts: Any) -> None:
    program = layouts["programs"]["echo"]
    environment = program["environment"]
    process = subprocess.Popen(
        program["command"],
        cwd=copy.folder,
        env={**copy.environment, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        with grpc.insecure_channel(f"127.0.0.1:{environment['TW_ECHO_PORT']}") as channel:
            request = health_pb2.HealthCheckRequest(service="thumbwheel.echo.v1.EchoService")
            stub = health_pb2_grpc.HealthStub(channel)
            answer = stub.Check(request, timeout=30, wait_for_ready=True)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=30)
        assert process.returncode == 0, output.decode()
    finally:
        process.kill()
        process.communicate()


def test_certificate_is_issued_for_the_service(copy: Copy, tmp_path: Path) -> None:
    copy.run(sys.executable, "-m", "infra.machine.certificates", "--into", str(tmp_path))
    certificate = x509.load_pem_x509_certificate((tmp_path / "echo.pem").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["echo.thumbwheel"]


def test_settings_page_and_image_contain_the_service(copy: Copy) -> None:
    page = (copy.folder / "docs" / "settings.md").read_text()
    assert page.startswith(HEAD)
    assert "\n## echo\n" in page
    assert "| `longest_text_characters` | `1000` |" in page
    assert "COPY services/echo /app/services/echo" in (copy.folder / "Containerfile").read_text()


def test_access_and_import_rules_hold_with_the_service(copy: Copy) -> None:
    selection = "rpc or callers or (imports_no_other_service and echo)"
    files = [f"tests/architecture/{name}" for name in ("test_access.py", "test_rules.py")]
    arguments = ("-v", "-n0", "-p", "no:cacheprovider", "-k", selection, *files)
    output = copy.run(sys.executable, "-m", "pytest", *arguments)
    assert "test_service_imports_no_other_service_and_no_training[echo] PASSED" in output
    assert "test_internal_service_uses_its_table_of_callers[echo] PASSED" in output


def test_chart_renders_the_service_with_its_port(copy: Copy) -> None:
    objects = copy.render("existing-values.yaml")
    own = [item for item in objects if component(item) == "echo"]
    (deployment,) = of_kind(own, "Deployment")
    assert deployment["spec"]["replicas"] == 1
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["args"] == ["services.echo"]
    assert {"name": "TW_ECHO_PORT", "value": "50057"} in container["env"]
    assert {"name": "grpc", "containerPort": 50057} in container["ports"]
    (service,) = of_kind(own, "Service")
    assert service["spec"]["ports"][0]["port"] == 50057
    (policy,) = of_kind(own, "NetworkPolicy")
    assert policy["spec"]["ingress"][0]["ports"] == [{"port": 50057, "protocol": "TCP"}]


def test_facts_of_the_row_become_settings_in_the_layouts_and_the_chart(
    copy: Copy, tmp_path: Path
) -> None:
    table = copy.folder / "services" / "services.toml"
    before = table.read_text()
    (row,) = (code for _, language, code in steps(GUIDE.read_text()) if language == "toml")
    table.write_text(before.replace(row, row + FACTS))
    try:
        programs = copy.layouts(tmp_path)["programs"]
        copy.run(sys.executable, "-m", "infra.docs.chart_services")
        objects = copy.render("evaluation-values.yaml")
    finally:
        table.write_text(before)
        copy.run(sys.executable, "-m", "infra.docs.chart_services")
    (deployment,) = of_kind([item for item in objects if component(item) == "echo"], "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    rendered = {variable["name"]: variable for variable in pod["containers"][0]["env"]}
    embedded, stack = (programs[name]["environment"] for name in ("echo", "echo-1"))
    everywhere = {f"TW_ECHO_{name}" for name in SETTINGS_OF_FACTS}
    servers = {f"TW_ECHO_{name}" for name in SETTINGS_OF_SERVERS}
    assert everywhere <= set(embedded)
    assert everywhere | servers <= set(stack)
    assert everywhere | servers <= set(rendered)
    assert embedded["TW_ECHO_DATABASE_URL"].startswith("sqlite:////")
    urls = (stack["TW_ECHO_DATABASE_URL"], rendered["TW_ECHO_DATABASE_URL"]["value"])
    assert [url.partition("://")[0] for url in urls] == ["postgresql+pg8000"] * 2
    assert [container["name"] for container in pod["initContainers"]] == ["migrate"]
    order = list(programs)
    assert order.index("predictor") < order.index("session") < order.index("echo")
