"""A Helm chart with values: its files, and its objects as Helm renders them."""

import copy
import json
import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from infra.machine.cluster.installation import locate

Object = Mapping[str, Any]
NAMESPACE = "checked"
RELEASE = "checked-one"
SECONDS = 300
# Kinds of operators that the cluster is said to have, so that objects behind a check are rendered.
OPERATORS = (
    "cert-manager.io/v1",
    "cert-manager.io/v1/Certificate",
    "external-secrets.io/v1",
    "gateway.networking.k8s.io/v1",
    "gateway.networking.k8s.io/v1/HTTPRoute",
    "kafka.strimzi.io/v1/Kafka",
    "keda.sh/v1alpha1",
    "keda.sh/v1alpha1/ScaledObject",
    "monitoring.coreos.com/v1",
    "monitoring.coreos.com/v1/PodMonitor",
    "monitoring.coreos.com/v1/PrometheusRule",
    "monitoring.coreos.com/v1/ServiceMonitor",
    "ray.io/v1/RayJob",
    "serving.kserve.io/v1alpha1/ServingRuntime",
    "serving.kserve.io/v1beta1/InferenceService",
)


class RefusedError(Exception):
    """Helm does not render the chart with these values; the message is Helm's."""


class Chart:
    """A chart and the values files with which it is checked.

    Args:
        folder: the chart, with its dependencies in `charts/` where it has any.
        values_files: files for `--values`, in this order.
        sets: values for `--set`.
        api_versions: kinds of the cluster in addition to OPERATORS.
    """

    def __init__(
        self,
        folder: Path,
        values_files: Sequence[Path] = (),
        sets: Sequence[str] = (),
        api_versions: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        self._options = [
            argument
            for option, items in (
                ("--values", [str(file) for file in values_files]),
                ("--set", sets),
                ("--api-versions", (*OPERATORS, *api_versions)),
            )
            for item in items
            for argument in (option, item)
        ]
        self._values_files = values_files

    @cached_property
    def objects(self) -> Sequence[Object]:
        """Return the objects of the release RELEASE with the values under check."""
        return self.render()

    @cached_property
    def values(self) -> dict[str, Any]:
        """Return the defaults, overlaid by the values files as Helm does it (`--set` excluded)."""
        merged: dict[str, Any] = {}
        for file in (self.folder / "values.yaml", *self._values_files):
            merged = overlaid(merged, loaded(file.read_text()) if file.exists() else {})
        return merged

    @cached_property
    def schema(self) -> dict[str, Any] | None:
        """Return values.schema.json, or None if the chart has none."""
        text = self.text("values.schema.json")
        return json.loads(text) if text else None

    @cached_property
    def metadata(self) -> dict[str, Any]:
        """Return the content of Chart.yaml."""
        return loaded(self.text("Chart.yaml"))

    def text(self, name: str) -> str:
        """Return the text of a file of the chart; an absent file is empty."""
        path = self.folder / name
        return path.read_text() if path.is_file() else ""

    def render(
        self, values: Mapping[str, Any] | None = None, release: str = RELEASE
    ) -> Sequence[Object]:
        """Render all objects; `values` replace those of the values files.

        Raises:
            RefusedError: by the schema or by a template.
        """
        command = [str(locate().clients / "helm"), "template", release, str(self.folder)]
        command += ["--namespace", NAMESPACE, "--kube-version", "1.34.0", *self._options]
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            if values is not None:
                json.dump(values, file)
                file.flush()
                command += ["--values", file.name]
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=SECONDS
            )
        if done.returncode:
            raise RefusedError(done.stderr.strip())
        # C0 controls and DEL are allowed in Helm's output and refused by YAML.
        text = re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", "", done.stdout)
        found = [item for item in yaml.load_all(text, yaml.CSafeLoader) if isinstance(item, dict)]
        return [
            item
            for outer in found
            for item in (outer["items"] if outer.get("kind") == "List" else [outer])
        ]


def loaded(text: str) -> dict[str, Any]:
    """Parse a YAML mapping; an empty text is an empty mapping."""
    found = next(yaml.load_all(text, yaml.CSafeLoader), None)
    return found if isinstance(found, dict) else {}


def overlaid(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Merge mappings as Helm merges values: mappings by key, everything else as a whole."""
    merged = copy.deepcopy(dict(below))
    for key, value in above.items():
        both = isinstance(merged.get(key), dict) and isinstance(value, Mapping)
        merged[key] = overlaid(merged[key], value) if both else copy.deepcopy(value)
    return merged
