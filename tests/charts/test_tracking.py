"""The image and values of docs/kubernetes.md for runs that wandb or MLflow record."""

import json
import re
from pathlib import Path

import pytest
import yaml

from tests.charts.rendering import component, of_kind, pods, render
from training.__main__ import parser

ROOT = Path(__file__).resolve().parents[2]


def documented() -> list[str]:
    """Return the blocks of the section, the image first and then the values."""
    _, _, rest = (ROOT / "docs/kubernetes.md").read_text().partition("### Experiment tracking")
    return re.findall(r"```(?:yaml)?\n(.*?)```", rest, re.DOTALL)


@pytest.mark.parametrize(("mode", "kind"), [("job", "CronJob"), ("kuberay", "RayJob")])
def test_the_pod_of_the_loop_records_and_may_reach_the_server(mode: str, kind: str) -> None:
    values = yaml.safe_load(documented()[1])
    given = {f"training.{key}": value for key, value in values["training"].items()}
    given["extraObjects"] = values["extraObjects"]
    json_sets = tuple(f"{path}={json.dumps(value)}" for path, value in given.items())
    objects = render(
        "existing-values.yaml", "training.enabled=true", f"ray.mode={mode}", json_sets=json_sets
    )
    pod = pods(objects)[f"training/{kind}"]
    (container,) = pod["spec"]["containers"]
    words = container["args"]
    assert parser().parse_args(words[words.index("loop") :]).track == ["mlflow"]
    environment = {item["name"]: item.get("value") for item in container["env"]}
    (policy,) = (
        item["spec"]
        for item in of_kind(objects, "NetworkPolicy")
        if item["metadata"]["name"] == "tw-tracking"
    )
    assert policy["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    ((rule,), (port,)) = policy["egress"], policy["egress"][0]["ports"]
    assert environment["MLFLOW_TRACKING_URI"].endswith(f":{port['port']}")
    (namespace,) = rule["to"][0]["namespaceSelector"]["matchLabels"].values()
    assert f".{namespace}:" in environment["MLFLOW_TRACKING_URI"]
    assert component(pod) == "training"


def test_the_image_adds_the_locked_packages_behind_those_of_the_training_image() -> None:
    image = documented()[0]
    base = (ROOT / "Containerfile").read_text()
    (version,) = re.findall(r"PYTHON=python:(3\.\d+)", base, re.MULTILINE)
    (own,) = re.findall(r"^ENV PYTHONPATH=(.*)$", base, re.MULTILINE)
    packages = f"/opt/tracking/lib/python{version}/site-packages"
    assert f"ENV PYTHONPATH={own}:{packages}\n" in image
    (lock,) = re.findall(r"^COPY (\S+)", image, re.MULTILINE)
    assert "mlflow-skinny==" in (ROOT / lock).read_text()
