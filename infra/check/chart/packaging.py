"""Points on the chart itself: schema, pages, labels, releases and images."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from infra.check.chart.chart import Chart, Object, RefusedError, loaded
from infra.check.chart.points import Findings, Point
from infra.check.chart.probing import MAX_DEPTH, resolved
from infra.check.chart.workloads import is_test, of_kind, pods, selects, servers, title

OTHER = "checked-two"
LABELS = ("app.kubernetes.io/name", "app.kubernetes.io/instance", "app.kubernetes.io/managed-by")
CHANGING = ("app.kubernetes.io/version", "app.kubernetes.io/managed-by", "helm.sh/chart")
IMAGE_LISTS = ("images.txt", "images.yaml", "files/images.txt", "files/images.yaml")
PAGES = ("UPGRADING.md", "UPGRADE.md", "CHANGELOG.md")


def schema(chart: Chart) -> Findings | None:
    """Render with an unknown value, which the schema must refuse, and read values.schema.json.

    Each object of the schema that has properties must also be closed (additionalProperties or
    unevaluatedProperties false), except `global`.
    """
    if chart.schema is None:
        return ["no values.schema.json"]
    breaks = [f"open: {path}" for path in _open_objects(chart.schema, chart.schema, "", 0)]
    try:
        chart.render({"checklistUnknown": True})
    except RefusedError:
        return breaks
    return ["an unknown value at the top is accepted", *breaks]


def _open_objects(
    found: Mapping[str, Any], root: Mapping[str, Any], path: str, depth: int
) -> Iterator[str]:
    found = resolved(found, root)
    properties = found.get("properties") or {}
    closed = [found.get(key) for key in ("additionalProperties", "unevaluatedProperties")]
    if properties and False not in closed and not any(isinstance(item, Mapping) for item in closed):
        yield path or "the top"
    if depth < MAX_DEPTH:
        for key, inner in properties.items():
            if key != "global":
                yield from _open_objects(inner, root, f"{path}.{key}".lstrip("."), depth + 1)


def readme(chart: Chart) -> Findings | None:
    """Compare the tables of README.md with values.yaml.

    Every value needs a row with a description, of itself or of a value that contains it.
    """
    page = chart.text("README.md")
    if not page:
        return ["no README.md"]
    rows = dict(_rows(page))
    paths = list(_paths(loaded(chart.text("values.yaml"))))
    if not paths:
        return None
    return [
        f"{path}: {'no description' if path in rows else 'no row'}"
        for path in paths
        if not any(rows.get(part) for part in _prefixes(path))
    ]


def _rows(page: str) -> Iterator[tuple[str, str]]:
    """Yield value and description of the rows of all tables that have a column `description`."""
    column: int | None = None
    for line in page.splitlines():
        if not line.startswith("|"):
            column = None
            continue
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        names = [cell.lower() for cell in cells]
        if column is None:
            column = names.index("description") if "description" in names else None
        elif column < len(cells):
            yield cells[0].strip("`* ").replace("\\", ""), cells[column]


def _paths(values: Mapping[str, Any], above: str = "") -> Iterator[str]:
    for key, value in values.items():
        path = f"{above}.{key}".lstrip(".")
        if isinstance(value, Mapping) and value:
            yield from _paths(value, path)
        else:
            yield path


def _prefixes(path: str) -> Sequence[str]:
    parts = path.split(".")
    return [".".join(parts[: count + 1]) for count in range(len(parts))]


def notes(chart: Chart) -> Findings | None:
    """Require templates/NOTES.txt with at least one kubectl, helm or http line."""
    text = chart.text("templates/NOTES.txt")
    useful = re.search(r"kubectl|helm |https?://", text)
    return [] if useful else ["templates/NOTES.txt names no command or address"]


def release_test(chart: Chart) -> Findings | None:
    """Require a hook of `helm test` that runs a pod."""
    return [] if any(is_test(pod.owner) for pod in pods(chart.objects)) else ["no test hook"]


def kube_version(chart: Chart) -> Findings | None:
    """Require kubeVersion in Chart.yaml."""
    return [] if chart.metadata.get("kubeVersion") else ["Chart.yaml: no kubeVersion"]


def upgrade_notes(chart: Chart) -> Findings | None:
    """Look for upgrade notes.

    UPGRADING.md, UPGRADE.md or CHANGELOG.md in the chart, a heading or link of README.md with
    "upgrad" or "migrat", or the annotation artifacthub.io/changes.
    """
    page = chart.text("README.md")
    heading = re.search(r"(^#+ |\]\([^)]*).*?(upgrad|migrat)", page, re.I | re.M)
    changes = "artifacthub.io/changes" in (chart.metadata.get("annotations") or {})
    found = heading or changes or any(chart.text(name).strip() for name in PAGES)
    return [] if found else ["no upgrade notes in the chart"]


def labels(chart: Chart) -> Findings | None:
    """Require the labels name, instance and managed-by of every object, and stable selectors.

    Selectors of workloads must not contain a label that changes with a version. Pods need name and
    instance. Hooks of `helm test` are left out.
    """
    found = [item for item in chart.objects if not is_test(item)]
    if not found:
        return None
    breaks = []
    for item in found:
        own = (item.get("metadata") or {}).get("labels") or {}
        if missing := [label.split("/")[1] for label in LABELS if label not in own]:
            breaks.append(f"{title(item)}: {', '.join(missing)}")
    for pod in servers(chart.objects):
        if missing := [label.split("/")[1] for label in LABELS[:2] if label not in pod.labels]:
            breaks.append(f"{pod.name}: pods without {', '.join(missing)}")
        wanted = (pod.owner["spec"].get("selector") or {}).get("matchLabels") or {}
        breaks += [f"{pod.name}: selector with {label}" for label in CHANGING if label in wanted]
    return breaks


def two_releases(chart: Chart) -> Findings | None:
    """Render a second release for the same namespace and compare.

    No object may have the name of one of the first release and no dashboard its uid. No selector of
    a Service, workload, policy or budget may select pods of the other.
    """
    if not chart.objects:
        return None
    try:
        others = chart.render(release=OTHER)
    except RefusedError as error:
        return [f"a second release is refused: {str(error).splitlines()[-1]}"]
    own = {title(item) for item in chart.objects if item["kind"] != "CustomResourceDefinition"}
    breaks = [f"{title(item)}: same name" for item in others if title(item) in own]
    uids = set(_uids(chart.objects))
    breaks += [f"dashboard uid {uid}: same" for uid in _uids(others) if uid in uids]
    foreign = [pod.labels for pod in pods(others, custom=False)]
    for item in of_kind(
        chart.objects,
        "Service",
        "NetworkPolicy",
        "PodDisruptionBudget",
        "Deployment",
        "StatefulSet",
        "DaemonSet",
    ):
        selector = _selector(item)
        if selector and any(selects(selector, own) for own in foreign):
            breaks.append(f"{title(item)}: selects pods of the other release")
    return breaks


def _uids(objects: Sequence[Object]) -> Iterator[str]:
    for item in of_kind(objects, "ConfigMap"):
        for text in (item.get("data") or {}).values():
            try:
                board = json.loads(text)
            except (TypeError, json.JSONDecodeError):
                continue
            if isinstance(board, dict) and "panels" in board and board.get("uid"):
                yield board["uid"]


def _selector(item: Object) -> Mapping[str, Any] | None:
    spec = item.get("spec") or {}
    if item["kind"] == "Service":
        return {"matchLabels": spec["selector"]} if spec.get("selector") else None
    found: Mapping[str, Any] | None = spec.get("podSelector", spec.get("selector"))
    return found


def repeatable(chart: Chart) -> Findings | None:
    """Render twice: both renderings must be equal.

    `lookup` finds nothing in `helm template`, so a secret that is generated if absent differs.
    """
    first = {title(item): item for item in chart.objects}
    return (
        [f"{title(item)}: differs" for item in chart.render() if first.get(title(item)) != item]
        if first
        else None
    )


def rolling_configuration(chart: Chart) -> Findings | None:
    """Require a hash of its configuration in the annotations of a server.

    A server that uses a ConfigMap or Secret of the chart needs a pod annotation with `checksum` or
    `hash` in its name, or one of Reloader.
    """
    rendered = {
        ("secret" if item["kind"] == "Secret" else "configMap", item["metadata"]["name"])
        for item in of_kind(chart.objects, "ConfigMap", "Secret")
    }
    found = [(pod, used) for pod in servers(chart.objects) if (used := _used(pod.spec) & rendered)]
    if not found:
        return None
    return [
        f"{pod.name}: {', '.join(sorted(name for _, name in used))}"
        for pod, used in found
        if not any(
            re.search("checksum|hash|reloader", key)
            for key in (*pod.annotations, *(pod.owner["metadata"].get("annotations") or {}))
        )
    ]


def _used(value: Any) -> set[tuple[str, str]]:
    """Return kind and name of the ConfigMaps and Secrets of a pod."""
    found: set[tuple[str, str]] = set()
    if isinstance(value, Mapping):
        for key, inner in value.items():
            for kind in ("configMap", "secret"):
                if key.startswith(kind) and isinstance(inner, Mapping):
                    name = inner.get("name") or inner.get("secretName")
                    found |= {(kind, str(name))} if name else set()
            found |= _used(inner)
    elif isinstance(value, list):
        for inner in value:
            found |= _used(inner)
    return found


def image_list(chart: Chart) -> Findings | None:
    """Compare images of the rendering with the list of the chart, tags and digests left aside.

    The list is the annotation artifacthub.io/images, or images.txt or images.yaml in the chart.
    """
    annotations = chart.metadata.get("annotations") or {}
    listed = "\n".join(
        [str(annotations.get("artifacthub.io/images", "")), *map(chart.text, IMAGE_LISTS)]
    )
    images = {
        str(container.get("image", ""))
        for pod in pods(chart.objects)
        for container in pod.containers
    }
    if not images:
        return None
    if not listed.strip():
        return ["no list of images"]
    return [f"not listed: {image}" for image in sorted(images) if _bare(image) not in listed]


def _bare(image: str) -> str:
    return re.sub(r":[^:/]+$", "", image.split("@")[0])


def provenance(chart: Chart) -> Findings | None:
    """Look for a signing key and an SBOM in the annotations of Chart.yaml or the chart's files.

    Signing key: an annotation such as artifacthub.io/signKey, or one with `cosign` or `provenance`.
    SBOM: an annotation with `sbom`, or a file *.cdx.json, *.spdx.json or *sbom*.json.
    """
    annotations = chart.metadata.get("annotations") or {}
    text = " ".join(f"{key} {value}" for key, value in annotations.items()).lower()
    files = [path.name for path in chart.folder.rglob("*.json")]
    boms = [name for name in files if re.search(r"\.cdx\.json$|\.spdx\.json$|sbom", name)]
    return [
        *([] if re.search("signkey|cosign|provenance|signature", text) else ["no signing key"]),
        *([] if "sbom" in text or boms else ["no SBOM"]),
    ]


POINTS = (
    Point(
        "schema",
        "A schema refuses unknown values at every level.",
        "A misspelt value is silently ignored otherwise.",
        schema,
    ),
    Point(
        "readme",
        "README describes every value.",
        "A value without a description is found only in templates.",
        readme,
    ),
    Point(
        "notes",
        "NOTES say how to reach the installed release.",
        "The first step after the installation is a search otherwise.",
        notes,
    ),
    Point(
        "release-test",
        "`helm test` checks the release.",
        "A pipeline cannot tell a working installation from a broken one.",
        release_test,
    ),
    Point(
        "kube-version",
        "The chart names the versions of Kubernetes that it supports.",
        "An old cluster fails half-way through the installation.",
        kube_version,
    ),
    Point(
        "upgrade-notes",
        "The chart comes with upgrade notes.",
        "Renamed values and manual steps are found after the outage.",
        upgrade_notes,
    ),
    Point(
        "labels",
        "Objects have the recommended labels, and selectors only stable ones.",
        "A selector with a version makes the next upgrade impossible.",
        labels,
    ),
    Point(
        "two-releases",
        "Two releases in one namespace do not collide.",
        "Calls of one reach pods of the other, or the installation fails.",
        two_releases,
    ),
    Point(
        "repeatable",
        "Two renderings of the same values are equal.",
        "GitOps tools replace random secrets at every synchronisation.",
        repeatable,
    ),
    Point(
        "rolling-configuration",
        "A changed ConfigMap or Secret of the chart restarts the pods that use it.",
        "Pods run with the old configuration until the next accident.",
        rolling_configuration,
    ),
    Point(
        "image-list",
        "The chart lists all of its images.",
        "Air-gapped registries are filled from this list.",
        image_list,
    ),
    Point(
        "provenance",
        "The release names its signing key and its SBOM.",
        "The origin of the images cannot be checked.",
        provenance,
    ),
)
