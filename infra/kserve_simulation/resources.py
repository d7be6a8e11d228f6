"""InferenceService and ServingRuntime for an API server, with just the fields that we set or read: it refuses or drops all others.

`python -m infra.kserve_simulation.resources` prints them for kubectl. Names and kinds are KServe's, 0.15 to 0.21; never in the chart.
"""

import json
from typing import Any, TypeAlias

Schema: TypeAlias = dict[str, Any]
GROUP = "serving.kserve.io"

TEXT: Schema = {"type": "string"}
NUMBER: Schema = {"type": "integer"}
FLAG: Schema = {"type": "boolean"}
QUANTITY: Schema = {"x-kubernetes-int-or-string": True}


def some(schema: Schema) -> Schema:
    return {"type": "array", "items": schema}


def each(schema: Schema) -> Schema:
    return {"type": "object", "additionalProperties": schema}


def thing(needed: tuple[str, ...] = (), **fields: Schema) -> Schema:
    return {"type": "object", "properties": fields} | ({"required": list(needed)} if needed else {})


RESOURCES = thing(limits=each(QUANTITY), requests=each(QUANTITY))
EXEC = thing(command=some(TEXT))
PROBE = thing(
    httpGet=thing(("port",), path=TEXT, port=QUANTITY, scheme=TEXT),
    periodSeconds=NUMBER,
    timeoutSeconds=NUMBER,
    failureThreshold=NUMBER,
)
CONTAINER_SECURITY = thing(
    allowPrivilegeEscalation=FLAG, readOnlyRootFilesystem=FLAG, capabilities=thing(drop=some(TEXT))
)
CONTAINER_FIELDS: dict[str, Schema] = {
    "name": TEXT,
    "image": TEXT,
    "imagePullPolicy": {"type": "string", "enum": ["Always", "IfNotPresent", "Never"]},
    "command": some(TEXT),
    "args": some(TEXT),
    "env": some(thing(("name",), name=TEXT, value=TEXT)),
    "ports": some(thing(("containerPort",), name=TEXT, containerPort=NUMBER, protocol=TEXT)),
    "startupProbe": PROBE,
    "readinessProbe": PROBE,
    "livenessProbe": PROBE,
    "lifecycle": thing(preStop=thing(exec=EXEC)),
    "terminationMessagePolicy": TEXT,
    "securityContext": CONTAINER_SECURITY,
    "resources": RESOURCES,
    "volumeMounts": some(thing(("name", "mountPath"), name=TEXT, mountPath=TEXT, readOnly=FLAG, subPath=TEXT)),
}
TOLERATION = thing(key=TEXT, operator=TEXT, value=TEXT, effect=TEXT, tolerationSeconds=NUMBER)
METRIC = thing(
    ("type",),
    type={"type": "string", "enum": ["Resource", "External", "PodMetric"]},
    external=thing(
        ("metric", "target"),
        metric=thing(backend={"type": "string", "enum": ["prometheus", "graphite"]}, serverAddress=TEXT, query=TEXT),
        target=thing(type=TEXT, value=QUANTITY),
    ),
)
PREDICTOR = thing(
    minReplicas=NUMBER,
    maxReplicas=NUMBER,
    scaleMetric={"type": "string", "enum": ["cpu", "memory", "concurrency", "rps"]},
    scaleTarget=NUMBER,
    autoScaling=thing(metrics=some(METRIC)),
    serviceAccountName=TEXT,
    automountServiceAccountToken=FLAG,
    enableServiceLinks=FLAG,
    terminationGracePeriodSeconds=NUMBER,
    priorityClassName=TEXT,
    nodeSelector=each(TEXT),
    tolerations=some(TOLERATION),
    imagePullSecrets=some(thing(name=TEXT)),
    securityContext=thing(
        runAsNonRoot=FLAG,
        runAsUser=NUMBER,
        runAsGroup=NUMBER,
        fsGroup=NUMBER,
        fsGroupChangePolicy=TEXT,
        seccompProfile=thing(type=TEXT),
    ),
    topologySpreadConstraints=some(
        thing(
            ("maxSkew", "topologyKey", "whenUnsatisfiable"),
            maxSkew=NUMBER,
            topologyKey=TEXT,
            whenUnsatisfiable=TEXT,
            labelSelector=thing(matchLabels=each(TEXT)),
        )
    ),
    model=thing(
        ("modelFormat",),
        modelFormat=thing(("name",), name=TEXT),
        runtime=TEXT,
        storageUri=TEXT,
        name=TEXT,
        args=some(TEXT),
        resources=RESOURCES,
    ),
)
CONDITION = thing(
    ("type", "status"), type=TEXT, status=TEXT, severity=TEXT, reason=TEXT, message=TEXT, lastTransitionTime=TEXT
)
STATUS = thing(
    observedGeneration=NUMBER,
    conditions=some(CONDITION),
    address=thing(url=TEXT),
    url=TEXT,
    components=each(thing(url=TEXT)),
    deploymentMode=TEXT,
    servingRuntimeName=TEXT,
    modelStatus=thing(
        transitionStatus={
            "type": "string",
            "enum": ["", "UpToDate", "InProgress", "BlockedByFailedLoad", "InvalidSpec"],
        },
        states=thing(activeModelState=TEXT, targetModelState=TEXT),
        copies=thing(failedCopies=NUMBER, totalCopies=NUMBER),
        lastFailureInfo=thing(location=TEXT, reason=TEXT, message=TEXT, exitCode=NUMBER),
    ),
)
RUNTIME = thing(
    ("containers",),
    supportedModelFormats=some(thing(("name",), name=TEXT, version=TEXT, autoSelect=FLAG, priority=NUMBER)),
    multiModel=FLAG,
    disabled=FLAG,
    protocolVersions=some(TEXT),
    containers=some(thing(("name",), **CONTAINER_FIELDS)),
    volumes=some(thing(("name",), name=TEXT, emptyDir=thing(medium=TEXT, sizeLimit=QUANTITY))),
)


def definitions() -> list[dict[str, Any]]:
    """The two CustomResourceDefinitions."""
    service = thing(spec=thing(("predictor",), predictor=PREDICTOR), status=STATUS)
    runtime = thing(("spec",), spec=RUNTIME)
    return [_definition("InferenceService", "v1beta1", service), _definition("ServingRuntime", "v1alpha1", runtime)]


def _definition(kind: str, version: str, schema: Schema) -> dict[str, Any]:
    plural = f"{kind.lower()}s"
    known = {"apiVersion": TEXT, "kind": TEXT, "metadata": {"type": "object"}}
    served = {
        "name": version,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": schema | {"properties": known | schema["properties"]}},
    }
    if "status" in schema["properties"]:
        served["subresources"] = {"status": {}}
    names = {"kind": kind, "listKind": f"{kind}List", "plural": plural, "singular": kind.lower()}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{GROUP}"},
        "spec": {"group": GROUP, "scope": "Namespaced", "names": names, "versions": [served]},
    }


if __name__ == "__main__":
    print(json.dumps({"apiVersion": "v1", "kind": "List", "items": definitions()}))
