"""Points on security: pods, rights, network and secrets."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from infra.check.chart.chart import NAMESPACE, Chart, Object
from infra.check.chart.points import Findings, Point
from infra.check.chart.workloads import Pod, of_kind, pods, selects, title

VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
}
CLUSTER_KINDS = (
    "ClusterRole",
    "ClusterRoleBinding",
    "CustomResourceDefinition",
    "MutatingWebhookConfiguration",
    "Namespace",
    "PersistentVolume",
    "PriorityClass",
    "SecurityContextConstraints",
    "StorageClass",
    "ValidatingAdmissionPolicy",
    "ValidatingWebhookConfiguration",
)
CREDENTIAL = r"(?:PASSWORD|PASSWD|SECRET|TOKEN|API_?KEY|ACCESS_?KEY(?:_ID)?|PRIVATE_?KEY)"
REFERENCE = re.compile(r"[{\[]|\$[({]|/|true$|false$|\d+$|\{\{", re.IGNORECASE)
URL_WITH_PASSWORD = re.compile(r"\w+://[^/\s:@$\"']*:[^/\s@$\"'({<]+@")
LINE = re.compile(
    rf"^\s*[\"']?\w*{CREDENTIAL}[\"']?\s*[:=]\s*[\"']?([^\s\"',]+)", re.IGNORECASE | re.MULTILINE
)


def restricted(chart: Chart) -> Findings | None:
    """Compare every pod, also of hooks, Jobs and operators' objects, with the restricted standard.

    Checked are host namespaces, ports and paths, volume types, users, capabilities, escalation and
    seccomp.
    """
    found = pods(chart.objects)
    if not found:
        return None
    return [f"{pod.name}: {reason}" for pod in found for reason in _unrestricted(pod)]


def _unrestricted(pod: Pod) -> Iterator[str]:
    spec = pod.spec
    own = spec.get("securityContext") or {}
    yield from (key for key in ("hostNetwork", "hostPID", "hostIPC") if spec.get(key))
    for volume in spec.get("volumes") or []:
        if kinds := set(volume) - VOLUMES - {"name"}:
            yield f"volume {volume['name']} is {', '.join(kinds)}"
    for container in pod.containers:
        name = container["name"]
        context = {**own, **(container.get("securityContext") or {})}
        capabilities = context.get("capabilities") or {}
        if any(port.get("hostPort") for port in container.get("ports") or []):
            yield f"{name} has a host port"
        if context.get("privileged"):
            yield f"{name} is privileged"
        if context.get("allowPrivilegeEscalation") is not False:
            yield f"{name} may escalate its privileges"
        if context.get("runAsNonRoot") is not True or context.get("runAsUser") == 0:
            yield f"{name} may run as root"
        if "ALL" not in (capabilities.get("drop") or []) or set(capabilities.get("add") or []) - {
            "NET_BIND_SERVICE"
        }:
            yield f"{name} keeps capabilities"
        if (context.get("seccompProfile") or {}).get("type") not in ("RuntimeDefault", "Localhost"):
            yield f"{name} has no seccomp profile"


def read_only_root(chart: Chart) -> Findings | None:
    """Require readOnlyRootFilesystem of every container."""
    found = pods(chart.objects)
    if not found:
        return None
    return [
        f"{pod.name}: {container['name']}"
        for pod in found
        for container in pod.containers
        if (container.get("securityContext") or {}).get("readOnlyRootFilesystem") is not True
    ]


def token(chart: Chart) -> Findings | None:
    """Require that a pod mounts no token, unless a RoleBinding of the chart names its account.

    The account of such a pod must not be `default`. A pod mounts the token unless
    `automountServiceAccountToken` is false in the pod or in its ServiceAccount.
    """
    found = pods(chart.objects, custom=False)
    if not found:
        return None
    accounts = {item["metadata"]["name"]: item for item in of_kind(chart.objects, "ServiceAccount")}
    bound = {
        subject["name"]
        for binding in of_kind(chart.objects, "RoleBinding", "ClusterRoleBinding")
        for subject in binding.get("subjects") or []
    }
    breaks = []
    for pod in found:
        name = pod.spec.get("serviceAccountName") or "default"
        account = accounts.get(name, {})
        setting = pod.spec.get("automountServiceAccountToken")
        if setting is None:
            setting = account.get("automountServiceAccountToken")
        if setting is not False and (name not in bound or name == "default"):
            breaks.append(f"{pod.name}: token of the account {name}")
    return breaks


def rights(chart: Chart) -> Findings | None:
    """Refuse wildcards, escalation, and secrets without resourceNames in Roles and ClusterRoles."""
    roles = of_kind(chart.objects, "Role", "ClusterRole")
    if not roles:
        return None
    return [f"{title(role)}: {reason}" for role in roles for reason in _broad(role)]


def _broad(role: Object) -> Iterator[str]:
    for rule in role.get("rules") or []:
        verbs = set(rule.get("verbs") or [])
        for field in ("apiGroups", "resources", "verbs"):
            if "*" in (rule.get(field) or []):
                yield f"* in {field}"
        if dangerous := verbs & {"escalate", "bind", "impersonate"}:
            yield f"verb {', '.join(sorted(dangerous))}"
        if "secrets" in (rule.get("resources") or []) and not rule.get("resourceNames"):
            yield "all secrets of the namespace"


def inside_the_namespace(chart: Chart) -> Findings | None:
    """Refuse cluster-scoped objects, and objects whose namespace is not that of the release."""
    if not chart.objects:
        return None
    breaks = [title(item) for item in of_kind(chart.objects, *CLUSTER_KINDS)]
    return breaks + [
        f"{title(item)} in {item['metadata']['namespace']}"
        for item in chart.objects
        if (item.get("metadata") or {}).get("namespace") not in (None, "", NAMESPACE)
    ]


def ingress_denied(chart: Chart) -> Findings | None:
    """Require a NetworkPolicy of the type Ingress for every pod, without a rule that admits all.

    Pods of `helm test` and of operators' objects are left out.
    """
    return _policies(chart, "Ingress", _admits_all)


def egress_denied(chart: Chart) -> Findings | None:
    """Require a NetworkPolicy of the type Egress for every pod, without a rule to every address.

    Every address is a rule without `to`, or the block 0.0.0.0/0 or ::/0, also with exceptions;
    allowed for port 53 alone. Pods of `helm test` and of operators' objects are left out.
    """
    return _policies(chart, "Egress", _reaches_all)


def _policies(chart: Chart, direction: str, opens: Any) -> Findings | None:
    found = pods(chart.objects, custom=False, tests=False)
    if not found:
        return None
    policies = [
        policy
        for policy in of_kind(chart.objects, "NetworkPolicy")
        if direction in _directions(policy["spec"])
    ]
    breaks = [
        f"{pod.name}: no policy"
        for pod in found
        if not any(selects(item["spec"].get("podSelector") or {}, pod.labels) for item in policies)
    ]
    return breaks + [
        f"{title(policy)}: a rule opens everything"
        for policy in policies
        if any(opens(rule) for rule in policy["spec"].get(direction.lower()) or [])
    ]


def _directions(spec: Mapping[str, Any]) -> Sequence[str]:
    implied = ["Ingress", *(["Egress"] if spec.get("egress") else [])]
    return spec.get("policyTypes") or implied


def _admits_all(rule: Mapping[str, Any]) -> bool:
    return not rule.get("from") and not rule.get("ports")


def _reaches_all(rule: Mapping[str, Any]) -> bool:
    ports = rule.get("ports") or []
    if ports and all(port.get("port") == 53 for port in ports):
        return False
    blocks = [(peer.get("ipBlock") or {}).get("cidr", "") for peer in rule.get("to") or []]
    return not rule.get("to") or any(block.endswith("/0") for block in blocks)


def no_literal_credentials(chart: Chart) -> Findings | None:
    """Search variables and arguments of containers and texts of ConfigMaps for credentials.

    A credential is a literal value under a name that ends with PASSWORD, SECRET, TOKEN or KEY of
    its kinds, or a URL with a password. References such as $(NAME), paths, numbers and empty values
    are none.
    """
    breaks = []
    for pod in pods(chart.objects):
        for container in pod.containers:
            where = f"{pod.name}: {container['name']}"
            for variable in container.get("env") or []:
                name, value = str(variable.get("name")), str(variable.get("value") or "")
                if _is_credential(name, value) or URL_WITH_PASSWORD.search(value):
                    breaks.append(f"{where}: {name}")
            words = [*(container.get("command") or []), *(container.get("args") or [])]
            if any(URL_WITH_PASSWORD.search(str(word)) for word in words):
                breaks.append(f"{where}: arguments")
    for item in of_kind(chart.objects, "ConfigMap"):
        for key, text in (item.get("data") or {}).items():
            lines = any(not REFERENCE.match(found[1]) for found in LINE.finditer(str(text)))
            if lines or _is_credential(key, str(text)) or URL_WITH_PASSWORD.search(str(text)):
                breaks.append(f"{title(item)}: {key}")
    return breaks if chart.objects else None


def _is_credential(name: str, value: str) -> bool:
    named = re.search(rf"{CREDENTIAL}$", name, re.IGNORECASE)
    return bool(named and value.strip() and not REFERENCE.match(value))


def existing_secrets(chart: Chart) -> Findings | None:
    """Require that the values under check render no Secret with contents, also not as a hook."""
    if not chart.objects:
        return None
    return [
        f"{title(item)}: {', '.join(sorted({**(item.get('data') or {}), **own}))}"
        for item in of_kind(chart.objects, "Secret")
        if (own := item.get("stringData") or {}) or item.get("data")
    ]


POINTS = (
    Point(
        "pss-restricted",
        "Every pod meets the restricted Pod Security Standard.",
        "Clusters that enforce it refuse the pod; elsewhere a break-out reaches the node.",
        restricted,
    ),
    Point(
        "read-only-root",
        "Every container has a read-only root filesystem.",
        "An intruder cannot replace programs of the image.",
        read_only_root,
    ),
    Point(
        "token",
        "Only pods with rights of their own mount a service account token.",
        "A token lets every process of the pod call the API server.",
        token,
    ),
    Point(
        "rights",
        "Roles name their resources and verbs.",
        "A wildcard also covers secrets and kinds that are added later.",
        rights,
    ),
    Point(
        "namespace",
        "All objects are within the namespace of the release.",
        "A tenant without cluster rights can install the chart, and it cannot harm others.",
        inside_the_namespace,
    ),
    Point(
        "ingress-denied",
        "Network policies deny ingress to every pod by default.",
        "Any pod of the cluster reaches internal ports otherwise.",
        ingress_denied,
    ),
    Point(
        "egress-denied",
        "Network policies limit egress of every pod to named peers.",
        "Stolen data leaves through, and cloud metadata is read by, an open egress.",
        egress_denied,
    ),
    Point(
        "no-literal-credentials",
        "No credential is a literal in a variable, an argument or a ConfigMap.",
        "Who may read pods or ConfigMaps reads the credential.",
        no_literal_credentials,
    ),
    Point(
        "existing-secrets",
        "Every credential can come from an existing Secret.",
        "Credentials in values end in Helm's revisions and in Git.",
        existing_secrets,
    ),
)
