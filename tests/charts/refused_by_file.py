"""Combinations with other values files of `ci/` that the templates of the chart reject."""

from collections.abc import Mapping

from tests.charts.refused_combinations import BY_TEMPLATE, Cases

KSERVE = "gitops=true,identity.mode=none,serving.mode=kserve"
RUNTIME = f"{KSERVE},serving.kserve.runtime"
SHARED = "serving.vllm.sharedBase.enabled=true,serving.vllm.sharedBase.maxRank"
EXTERNAL = "serving.mode=external"

EVALUATION: Cases = {
    f"{value} beside the store of an evaluation": (f"{value}={given}", value)
    for value, given in {
        "database.existingSecret": "databases",
        "database.caSecret": "databases-ca",
        "kafka.bootstrap": "kafka:9092",
        "kafka.existingSecret": "kafka",
        "kafka.caKey": "ca.crt",
        "kafka.securityProtocol": "SSL",
        "objectStore.endpoint": "s3",
        "objectStore.existingSecret": "bucket",
        "objectStore.credentials": "chain",
        "valkey.existingSecret": "valkey",
        "kafka.strimzi.enabled": "true",
        "gitops": "true,secrets.existing=keys,serving.existingSecret=server,"
        "identity.existing.private=a,identity.existing.public=b",
    }.items()
} | {
    "half of the keys of callers": ("identity.existing.private=mine", "identity.existing"),
    "the other half of the keys": ("identity.existing.public=mine", "identity.existing"),
}

STRIMZI: Cases = {
    "Strimzi without its operator": (
        "gitops=false,services.gateway.keda.enabled=false",
        "kafka.strimzi.enabled",
    ),
    "fewer brokers than replicas": (
        "gitops=true,identity.mode=none,serving.existingSecret=a,kafka.strimzi.brokers=2",
        "kafka.topics.replicationFactor",
    ),
    "another protocol than that of Strimzi": (
        "gitops=true,identity.mode=none,serving.existingSecret=a,kafka.securityProtocol=SSL",
        "kafka.securityProtocol",
    ),
}

GPU: Cases = {
    "no GPU": (f"{KSERVE},serving.vllm.resources.limits=null", "serving.vllm.resources"),
    "fewer pods at most than at least": (
        f"{KSERVE},serving.kserve.minReplicas=5",
        "serving.kserve.minReplicas",
    ),
    "more pods without an autoscaler": (
        f"{KSERVE},serving.kserve.autoscaler=none",
        "serving.kserve.autoscaler",
    ),
    "keda without counts": (f"{KSERVE},serving.kserve.prometheus=", "serving.kserve.prometheus"),
    "adapters of a store": (
        f"{KSERVE},{SHARED}=128,models.store=s3://bucket/models",
        "serving.vllm.sharedBase models.store",
    ),
    "adapters without KServe": (
        f"gitops=true,identity.mode=none,serving.mode=deployment,{SHARED}=128",
        "serving.vllm.sharedBase serving.kserve.runtime",
    ),
    "adapters without vLLM": (
        f"{RUNTIME}=predictor,{SHARED}=128",
        "serving.vllm.sharedBase serving.kserve.runtime",
    ),
}

SINGLE_GPU: Cases = {
    "adapters above the rank of the server": (
        f"{KSERVE},{SHARED}=128,training.extraArgs={{--set,ppo.lora.served_rank=256}}",
        "sharedBase.maxRank: 128 up to rank 256; training.extraArgs",
    ),
    "training on the GPUs of versions": (
        f"{KSERVE},ray.workers.nodeSelector.pool=serving",
        "serving.vllm.podsPerGpu ray.workers.nodeSelector",
    ),
    "adapters without a shared base": (
        f"{KSERVE},serving.vllm.args={{--gpu-memory-utilization=.4,--enable-lora}}",
        "serving.vllm.args sharedBase",
    ),
    "adapters by name": (
        f"{KSERVE},serving.vllm.args={{--gpu-memory-utilization=.4,--lora-modules=a=/x}}",
        "serving.vllm.args sharedBase",
    ),
    "two pods with more memory than a GPU": (
        f"{KSERVE},serving.vllm.args={{--gpu-memory-utilization=0.6}}",
        "serving.vllm.podsPerGpu 0.475",
    ),
    "two pods with the default memory": (
        f"{KSERVE},serving.vllm.args={{--max-model-len=8192}}",
        "serving.vllm.podsPerGpu",
    ),
    "a window below that of the model": (
        f"{KSERVE},serving.vllm.args={{--gpu-memory-utilization=.4,--max-model-len=4096}}",
        "models.contextTokens 8192 4096",
    ),
}

EIGHT_GPUS: Cases = {
    "no pod of a version": (
        f"{KSERVE},serving.kserve.minReplicas=0",
        "serving.kserve.minReplicas: 0 Standard",
    ),
    "no pod of a candidate": (
        f"{KSERVE},serving.kserve.candidate.minReplicas=0",
        "serving.kserve.candidate.minReplicas: 0",
    ),
    "more pods of a candidate without an autoscaler": (
        f"{KSERVE},serving.kserve.candidate.maxReplicas=2",
        "serving.kserve.candidate.maxReplicas: none",
    ),
    "no GPU of a candidate": (
        f"{KSERVE},serving.kserve.candidate.resources.limits.memory=1Gi",
        "serving.kserve.candidate.resources: GPU",
    ),
}

EXTERNAL_MODEL: Cases = {
    "training of an external model": (f"{EXTERNAL},training.enabled=true", "training.enabled"),
    "no external model": (
        f"{EXTERNAL},externalModels.models=null,externalModels.egress=null",
        "externalModels.models",
    ),
    "an unknown external model": (
        f"{EXTERNAL},serving.external.model=other",
        "serving.external.model other",
    ),
    "several external models": (
        f"{EXTERNAL},externalModels.models.second.url=https://b.example/v1,"
        "externalModels.models.second.model=b,externalModels.models.second.developer=B,"
        "externalModels.models.second.licence=x",
        "serving.external.model main, second",
    ),
    "a claim without models": (f"{EXTERNAL},models.existingClaim=models", "models.existingClaim"),
    "a store without models": (f"{EXTERNAL},models.store=s3://models/all", "models.store"),
    "an import without models": (
        f"{EXTERNAL},models.import.source=acme/model",
        "models.import.source",
    ),
    "a token of no import": (
        f"{EXTERNAL},models.import.tokenSecret=hub",
        "models.import.tokenSecret",
    ),
    "no room for a context": (
        f"{EXTERNAL},serving.external.replyTokens=4096,serving.external.contextTokens=4096",
        "serving.external.replyTokens",
    ),
    "an external model with another mode": (
        "serving.mode=deployment,serving.external.model=main",
        "serving.external.model",
    ),
}

GITOPS: Cases = {
    "GitOps with generated keys of callers": (
        "identity.existing.private=,identity.existing.public=",
        "identity.existing",
    ),
}

BY_FILE: Mapping[str, Cases] = {
    "existing-values.yaml": BY_TEMPLATE,
    "evaluation-values.yaml": EVALUATION,
    "strimzi-values.yaml": STRIMZI,
    "gitops-values.yaml": GITOPS,
    "gpu-values.yaml": GPU,
    "single-gpu-values.yaml": SINGLE_GPU,
    "eight-gpus-values.yaml": EIGHT_GPUS,
    "external-values.yaml": EXTERNAL_MODEL,
}
