"""Secrets by External Secrets in `extraObjects`, as docs/kubernetes.md writes them."""

import re
from pathlib import Path

from tests.charts.rendering import CHART, VALUES, Object, helm, of_kind, parse, pods

PAGE = CHART.parents[1] / "docs" / "kubernetes.md"


def rendered(values: str, tmp_path: Path) -> list[Object]:
    """Render the values over those of existing stores."""
    file = tmp_path / "values.yaml"
    file.write_text(values)
    usual = str(VALUES / "existing-values.yaml")
    result = helm("template", "tw", str(CHART), "-n", "chat", "-f", usual, "-f", str(file))
    assert result.returncode == 0, result.stderr
    return parse(result.stdout)


def test_the_example_of_external_secrets_makes_every_secret_of_the_pods(tmp_path: Path) -> None:
    (example,) = [
        block
        for block in re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
        if "kind: ExternalSecret" in block
    ]
    objects = rendered(example, tmp_path)
    made = {item["metadata"]["name"]: item["spec"] for item in of_kind(objects, "ExternalSecret")}
    used = set()
    for pod in pods(objects).values():
        for container in (*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"]):
            for variable in container.get("env", ()):
                reference = variable.get("valueFrom", {}).get("secretKeyRef")
                used |= {reference["name"]} if reference else set()
        used |= {
            volume["secret"]["secretName"]
            for volume in pod["spec"].get("volumes", ())
            if "secret" in volume
        }
    assert made.keys() == used
    # External Secrets fills in the password.
    assert made["valkey"]["target"]["template"]["data"] == {
        "url": "valkeys://chat:{{ .password | urlquery }}@valkey.stores:6379"
    }
    assert made["keys"]["dataFrom"] == [{"extract": {"key": "chat/keys"}}]
