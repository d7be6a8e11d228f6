"""Points on operation: probes, resources, shutdown, updates, replicas and volumes."""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from infra.check.chart.chart import Chart
from infra.check.chart.points import Findings, Point
from infra.check.chart.workloads import (
    Pod,
    of_kind,
    pods,
    replicas,
    scalers_of,
    selects,
    servers,
    services_of,
    share,
    title,
)

HOSTNAME = "kubernetes.io/hostname"
GRACE_SECONDS = 30


def probes(chart: Chart) -> Findings | None:
    """Require readiness and liveness probes of every container of a server that has ports.

    A liveness probe with the handler of the readiness probe must wait longer than that one.
    """
    found = servers(chart.objects)
    if not found:
        return None
    return [f"{pod.name}: {reason}" for pod in found for reason in _unprobed(pod)]


def _unprobed(pod: Pod) -> Iterator[str]:
    for container in pod.probed:
        ready, live = container.get("readinessProbe"), container.get("livenessProbe")
        if not ready:
            yield f"{container['name']} has no readiness probe"
        if not live:
            yield f"{container['name']} has no liveness probe"
        if ready and live and _handler(ready) == _handler(live) and _wait(live) <= _wait(ready):
            yield f"{container['name']} is killed as soon as it is not ready"


def _handler(probe: Mapping[str, Any]) -> Mapping[str, Any]:
    return {key: probe.get(key) for key in ("exec", "grpc", "httpGet", "tcpSocket")}


def _wait(probe: Mapping[str, Any]) -> int:
    return int(probe.get("periodSeconds", 10)) * int(probe.get("failureThreshold", 3))


def resources(chart: Chart) -> Findings | None:
    """Require requests of CPU and memory and a limit of memory of every container.

    Init containers, Jobs, hooks and pods within operators' objects are included.
    """
    found = pods(chart.objects)
    if not found:
        return None
    breaks = []
    for pod in found:
        for container in pod.containers:
            own = container.get("resources") or {}
            requests, limits = own.get("requests") or {}, own.get("limits") or {}
            missing = [
                *(f"request of {name}" for name in ("cpu", "memory") if not requests.get(name)),
                *([] if limits.get("memory") else ["limit of memory"]),
            ]
            if missing:
                breaks.append(f"{pod.name}: {container['name']}: {', '.join(missing)}")
    return breaks


def shutdown(chart: Chart) -> Findings | None:
    """Require a preStop hook of Deployments behind a Service, and a longer grace period.

    The duration of the hook is `sleep.seconds`, or the number after `sleep` in its command.
    """
    found = [
        pod
        for pod in servers(chart.objects)
        if pod.owner["kind"] == "Deployment" and services_of(chart.objects, pod)
    ]
    if not found:
        return None
    breaks = []
    for pod in found:
        grace = pod.spec.get("terminationGracePeriodSeconds", GRACE_SECONDS)
        seconds = [_hook_seconds(container) for container in pod.probed]
        longest = max((item for item in seconds if item is not None), default=0)
        if None in seconds:
            breaks.append(f"{pod.name}: no preStop hook")
        elif longest >= grace:
            breaks.append(f"{pod.name}: the hook takes {longest} of {grace} s")
    return breaks


def _hook_seconds(container: Mapping[str, Any]) -> int | None:
    hook = (container.get("lifecycle") or {}).get("preStop")
    if not hook:
        return None
    if "sleep" in hook:
        return int(hook["sleep"]["seconds"])
    command = " ".join(map(str, (hook.get("exec") or {}).get("command") or []))
    number = re.search(r"\bsleep\s+(\d+)", command)
    return int(number[1]) if number else 0


def updates(chart: Chart) -> Findings | None:
    """Require that a rolling update of a replicated workload leaves at least half of the pods."""
    found = [pod for pod in servers(chart.objects) if replicas(chart.objects, pod) > 1]
    if not found:
        return None
    breaks = []
    for pod in found:
        spec = pod.owner["spec"]
        strategy = spec.get("strategy") or spec.get("updateStrategy") or {}
        total = replicas(chart.objects, pod)
        away = (strategy.get("rollingUpdate") or {}).get("maxUnavailable")
        default = "25%" if pod.owner["kind"] == "Deployment" else 1
        if strategy.get("type", "RollingUpdate") != "RollingUpdate":
            breaks.append(f"{pod.name}: strategy {strategy['type']}")
        elif share(default if away is None else away, total, up=False) * 2 > total:
            breaks.append(f"{pod.name}: maxUnavailable {away} of {total}")
    return breaks


def replicated(chart: Chart) -> Findings | None:
    """Require two or more pods of every server that a Service selects, with these values."""
    found = [pod for pod in servers(chart.objects) if services_of(chart.objects, pod)]
    if not found:
        return None
    return [
        f"{pod.name}: {count} pod(s)"
        for pod in found
        if (count := replicas(chart.objects, pod)) < 2
    ]


def disruption_budgets(chart: Chart) -> Findings | None:
    """Require a PodDisruptionBudget of every replicated server, and that no budget blocks drains.

    A budget blocks a drain if it never permits the eviction of a pod.
    """
    found = [pod for pod in servers(chart.objects) if pod.owner["kind"] != "DaemonSet"]
    if not found:
        return None
    budgets = of_kind(chart.objects, "PodDisruptionBudget")
    breaks = []
    for pod in found:
        total = replicas(chart.objects, pod)
        own = [item for item in budgets if selects(item["spec"].get("selector"), pod.labels)]
        if total > 1 and not own:
            breaks.append(f"{pod.name}: no budget for {total} pods")
        breaks += [f"{title(item)}: blocks drains" for item in own if _blocks(item["spec"], total)]
    return breaks


def _blocks(spec: Mapping[str, Any], total: int) -> bool:
    least, away = spec.get("minAvailable"), spec.get("maxUnavailable")
    if least is not None:
        return total > 0 and share(least, total, up=True) >= total
    return away is not None and share(away, max(total, 1), up=True) < 1


def spread(chart: Chart) -> Findings | None:
    """Require topologySpreadConstraints or podAntiAffinity on nodes of every replicated server."""
    found = [
        pod
        for pod in servers(chart.objects)
        if replicas(chart.objects, pod) > 1 and pod.owner["kind"] != "DaemonSet"
    ]
    if not found:
        return None
    return [pod.name for pod in found if HOSTNAME not in _spread_keys(pod)]


def _spread_keys(pod: Pod) -> set[str]:
    anti = (pod.spec.get("affinity") or {}).get("podAntiAffinity") or {}
    terms = [
        *(pod.spec.get("topologySpreadConstraints") or []),
        *(anti.get("requiredDuringSchedulingIgnoredDuringExecution") or []),
        *(
            term["podAffinityTerm"]
            for term in anti.get("preferredDuringSchedulingIgnoredDuringExecution") or []
        ),
    ]
    return {term["topologyKey"] for term in terms}


def claims(chart: Chart) -> Findings | None:
    """Require another access mode than ReadWriteOnce of a rendered claim that several pods mount.

    Claims that exist before are unknown. Claim templates of StatefulSets belong to one pod.
    """
    mounts: dict[str, list[str]] = defaultdict(list)
    for pod in pods(chart.objects, custom=False, tests=False):
        count = replicas(chart.objects, pod) if pod.server else 1
        for volume in pod.spec.get("volumes") or []:
            if name := (volume.get("persistentVolumeClaim") or {}).get("claimName"):
                mounts[name] += [pod.name] * count
    own = [
        item
        for item in of_kind(chart.objects, "PersistentVolumeClaim")
        if item["metadata"]["name"] in mounts
    ]
    if not mounts:
        return None
    return [
        f"{title(item)}: mounted by {', '.join(sorted(set(users)))}"
        for item in own
        if set(item["spec"].get("accessModes") or []) <= {"ReadWriteOnce", "ReadWriteOncePod"}
        and len(users := mounts[item["metadata"]["name"]]) > 1
    ]


def autoscaling(chart: Chart) -> Findings | None:
    """Compare autoscalers with their workloads.

    The workload sets no replicas and has one autoscaler, the limits are in order, and a resource
    that is a share of requests is requested.
    """
    scaled = [(pod, scalers_of(chart.objects, pod)) for pod in servers(chart.objects)]
    scaled = [(pod, scalers) for pod, scalers in scaled if scalers]
    if not scaled:
        return None
    breaks = []
    for pod, scalers in scaled:
        if pod.owner["spec"].get("replicas") is not None:
            breaks.append(f"{pod.name}: sets replicas, which an upgrade restores")
        if len(scalers) > 1:
            breaks.append(f"{pod.name}: {len(scalers)} autoscalers")
        breaks += [
            f"{title(item)}: {reason}" for item in scalers for reason in _incoherent(item, pod)
        ]
    return breaks


def _incoherent(scaler: Mapping[str, Any], pod: Pod) -> Iterator[str]:
    spec = scaler["spec"]
    most = spec.get("maxReplicas", spec.get("maxReplicaCount", 100))
    fewest = spec.get("minReplicas", spec.get("minReplicaCount", 0))
    if fewest > most:
        yield f"minimum {fewest} above maximum {most}"
    for metric in spec.get("metrics") or []:
        own = metric.get("resource") or {}
        if "averageUtilization" not in (own.get("target") or {}):
            continue
        for container in pod.main_containers:
            if own["name"] not in ((container.get("resources") or {}).get("requests") or {}):
                yield f"{container['name']} requests no {own['name']}"


POINTS = (
    Point(
        "probes",
        "Every server has a readiness probe and a more patient liveness probe.",
        "Traffic reaches pods that cannot answer, or an outage of a store restarts all pods.",
        probes,
    ),
    Point(
        "resources",
        "Every container requests CPU and memory and limits its memory.",
        "A pod without requests is scheduled on full nodes and evicted first.",
        resources,
    ),
    Point(
        "shutdown",
        "Pods leave the Service before they stop, within their grace period.",
        "Each update or drain breaks calls otherwise.",
        shutdown,
    ),
    Point(
        "updates",
        "A rolling update of a replicated workload leaves at least half of its pods.",
        "An update is an outage otherwise.",
        updates,
    ),
    Point(
        "replicated",
        "Every server behind a Service has two or more pods.",
        "The loss of one node interrupts the service.",
        replicated,
    ),
    Point(
        "disruption-budgets",
        "Every replicated server has a disruption budget that permits drains.",
        "A drain takes all pods at once, or never ends.",
        disruption_budgets,
    ),
    Point(
        "spread",
        "Pods of a replicated server are spread over nodes.",
        "All replicas may be on the node that fails.",
        spread,
    ),
    Point(
        "claims",
        "No claim of one node is mounted by several pods.",
        "The second pod never starts on another node.",
        claims,
    ),
    Point(
        "autoscaling",
        "Autoscalers and replicas agree.",
        "Each upgrade resets the number of pods, or the autoscaler has no figures.",
        autoscaling,
    ),
)
