"""Points on configuration: placement, identity, images and further objects.

Each point but one sets values and looks at what becomes of them.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from infra.check.chart.chart import Chart
from infra.check.chart.points import Findings, Point
from infra.check.chart.probing import first_accepted, replaced, set_everywhere
from infra.check.chart.workloads import Pod, of_kind, pods

MARK = "checklist.example/chosen"
USER = 54321
REGISTRY = "registry.checklist.example"
OBJECT: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {"name": "checklist-further"},
    "data": {"key": "value"},
}
AFFINITY = {
    "nodeAffinity": {
        "preferredDuringSchedulingIgnoredDuringExecution": [
            {
                "weight": 1,
                "preference": {"matchExpressions": [{"key": MARK, "operator": "Exists"}]},
            }
        ]
    }
}
EXTRA = (
    "extraDeploy",
    "extraManifests",
    "extraObjects",
    "extraRawResources",
    "extraResources",
    "extraTemplates",
    "additionalManifests",
    "additionalObjects",
)
SECURITY = (
    "containerSecurityContext",
    "podSecurity",
    "podSecurityContext",
    "securityContext",
)


def placement(chart: Chart) -> Findings | None:
    """Set nodeSelector, tolerations and affinity wherever the chart has them.

    Every pod of the rendering must then have all three. Node affinity counts as a nodeSelector, and
    a value `nodeSelectorTerms` as node affinity. Pods of `helm test` are left out.
    """
    required = {"matchExpressions": [{"key": MARK, "operator": "Exists"}]}
    setters = {
        "nodeSelectorTerms": replaced(list, [required]),
        "nodeSelector": replaced(dict, {MARK: "yes"}),
        "tolerations": replaced(list, [{"key": MARK, "operator": "Exists"}]),
        "affinity": replaced(dict, AFFINITY),
    }
    return _settable(
        chart,
        [set_everywhere(chart, setters)],
        _unplaced,
    )


def _unplaced(pod: Pod) -> Sequence[str]:
    found = {
        key for key in ("nodeSelector", "tolerations", "affinity") if MARK in str(pod.spec.get(key))
    }
    if "affinity" in found:
        found.add("nodeSelector")
    return [key for key in ("nodeSelector", "tolerations", "affinity") if key not in found]


def priority(chart: Chart) -> Findings | None:
    """Set priorityClassName wherever the chart has it; every pod must then have the class.

    Pods of `helm test` are left out.
    """
    return _settable(
        chart,
        [set_everywhere(chart, {"priorityClassName": replaced(str, "checklist")})],
        lambda pod: (
            [] if pod.spec.get("priorityClassName") == "checklist" else ["priorityClassName"]
        ),
    )


def identity(chart: Chart) -> Findings | None:
    """Set the user in every security context of the values; every pod must then run as that user.

    A pod that fixes neither user nor group already leaves the choice to the cluster.
    """
    setters = {
        name: lambda old: {**(old or {}), "runAsUser": USER} if isinstance(old or {}, dict) else old
        for name in SECURITY
    }
    return _settable(
        chart, [set_everywhere(chart, setters)], lambda pod: _fixed_users(pod), tests=True
    )


def _fixed_users(pod: Pod) -> Sequence[str]:
    own = pod.spec.get("securityContext") or {}
    contexts = [{**own, **(item.get("securityContext") or {})} for item in pod.containers]
    ids = ("runAsUser", "runAsGroup", "fsGroup")
    fixed = any(context.get(name) is not None for context in contexts for name in ids)
    if not fixed or all(context.get("runAsUser") == USER for context in contexts):
        return []
    return [f"user {own.get('runAsUser', contexts[0].get('runAsUser'))} is fixed"]


def _settable(
    chart: Chart, variants: Sequence[Mapping[str, Any] | None], lacks: Any, tests: bool = False
) -> Findings | None:
    """Render the first accepted variant and list the pods that lack something."""
    if not pods(chart.objects, custom=False, tests=tests):
        return None
    objects, reason = first_accepted(chart, variants)
    if objects is None:
        # The chart may satisfy the point without a value.
        objects, suffix = chart.objects, f" ({reason})"
    else:
        suffix = ""
    return [
        f"{pod.name}: {', '.join(missing)}{suffix}"
        for pod in pods(objects, custom=False, tests=tests)
        if (missing := lacks(pod))
    ]


def registries(chart: Chart) -> Findings | None:
    """Set the registry of each image by itself, and the pull secrets; every pod must use both.

    A registry is `registry`, `imageRegistry`, a `repository` beside `tag`, or a string `image`; one
    value for all images (at the top or in `global`) does not count.
    """
    variants = []
    for secrets in ([{"name": "checklist-pull"}], ["checklist-pull"]):
        setters = {
            "imagePullSecret": replaced(str, "checklist-pull"),
            "imagePullSecrets": replaced(list, secrets),
            "pullSecrets": replaced(list, secrets),
        }
        own = set_everywhere(chart, setters) or chart.values
        variants.append({key: _moved(value, key) for key, value in own.items()})
    return _settable(chart, variants, _unmoved)


def _moved(value: Any, key: str = "") -> Any:
    """Return values with the registry of every image replaced."""
    if key == "global":
        return value
    if isinstance(value, list):
        return [_moved(item) for item in value]
    if key.lower() == "image" and isinstance(value, str):
        return f"{REGISTRY}/image:1"
    if not isinstance(value, dict):
        return value
    names = {str(name).lower(): name for name in value}
    new = {name: _moved(item, str(name)) for name, item in value.items()}
    own = [names[name] for name in ("registry", "imageregistry") if name in names]
    if {"tag", "digest", "pullpolicy"} & set(names) or own:
        if own:
            new[own[0]] = REGISTRY
        elif "repository" in names:
            new[names["repository"]] = f"{REGISTRY}/image"
    return new


def _unmoved(pod: Pod) -> Sequence[str]:
    secrets = [item.get("name") for item in pod.spec.get("imagePullSecrets") or []]
    return [
        *(
            f"image {container['image']}"
            for container in pod.containers
            if not str(container.get("image")).startswith(f"{REGISTRY}/")
        ),
        *([] if "checklist-pull" in secrets else ["imagePullSecrets"]),
    ]


def tags(chart: Chart) -> Findings | None:
    """Require a digest, or a tag other than `latest` and its kin, of every image."""
    images = [
        (pod.name, str(container.get("image", "")))
        for pod in pods(chart.objects)
        for container in pod.containers
    ]
    if not images:
        return None
    return [f"{name}: {image}" for name, image in images if not _pinned(image)]


def _pinned(image: str) -> bool:
    if "@sha256:" in image:
        return True
    tag = re.search(r":([^:/]+)$", image)
    return bool(tag and tag[1] not in ("latest", "main", "master", "stable", "nightly", "edge"))


def further_objects(chart: Chart) -> Findings | None:
    """Set values named extraObjects or alike to a ConfigMap, which must then be rendered."""
    contents: Sequence[Any] = ([OBJECT], {"checklist": OBJECT}, [str(OBJECT)])
    variants = [set_everywhere(chart, {name: _extra(new) for name in EXTRA}) for new in contents]
    objects, reason = first_accepted(chart, variants)
    if objects is None:
        return [reason]
    names = [item["metadata"]["name"] for item in of_kind(objects, "ConfigMap")]
    return [] if OBJECT["metadata"]["name"] in names else ["the object is not rendered"]


def _extra(new: Any) -> Any:
    return lambda old: new


POINTS = (
    Point(
        "placement",
        "nodeSelector, tolerations and affinity of every pod can be set.",
        "Nodes are tainted and divided into pools in most clusters.",
        placement,
    ),
    Point(
        "priority",
        "The priority class of every pod can be set.",
        "Batch work evicts the service where all have the same priority.",
        priority,
    ),
    Point(
        "identity",
        "User and group of every pod can be set or are left to the cluster.",
        "OpenShift assigns users by namespace and refuses fixed ones.",
        identity,
    ),
    Point(
        "registries",
        "Registry of each image and pull secrets of every pod can be set.",
        "Companies mirror images, and not all into one registry.",
        registries,
    ),
    Point(
        "tags",
        "Every image has a digest or a tag that is not moved.",
        "Two nodes run different programs under one name otherwise.",
        tags,
    ),
    Point(
        "further-objects",
        "Further objects can be rendered with the release.",
        "An ExternalSecret or a policy otherwise needs a chart of its own.",
        further_objects,
    ),
)
