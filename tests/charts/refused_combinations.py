"""Combinations with `existing-values.yaml` that the templates of the chart reject.

Each case has settings, and words of its only error. A combination that depends on `gitops` or
`serving.mode` names the value, also where it is the default.
"""

from collections.abc import Mapping

Cases = Mapping[str, tuple[str, str]]

# With gitops the chart does not check for operators.
RAY = "training.enabled=true,ray.mode=kuberay,training.loop.existingClaim=loop,gitops=true"
SCALED = "ray.autoscaling.enabled=true"
ROUTES = (
    "gatewayApi.http.enabled=true,gatewayApi.http.gateway=public,"
    "gatewayApi.grpc.enabled=true,gatewayApi.grpc.gateway=public"
)
STORE = "networkPolicies.stores[0].to[0].ipBlock.cidr"
GPU = "ray.workers.nodeSelector.pool=gpu,ray.workers.resources.limits.nvidia\\.com/gpu=2"
SEED = "corpus.config=seed=1"
CORPUS_CLAIMS = "corpus.input.existingClaim=a,corpus.output.existingClaim=b"
RIVAL = (
    "externalModels.models.rival.url=https://api.example.com/v1,"
    "externalModels.models.rival.model=rival-2,externalModels.models.rival.developer=Example,"
    "externalModels.models.rival.licence=proprietary"
)
GUARD = "guardrail.operator.model=guard-1,guardrail.operator.endpoint"
OWN_CLAIM = "models.existingClaim="
ONE_NODE = "models.accessModes to [ReadWriteMany] models.existingClaim"

BY_TEMPLATE: Cases = {
    "no database": ("database.existingSecret=", "database.existingSecret"),
    "no brokers": ("kafka.bootstrap=", "kafka.bootstrap"),
    "no store": ("objectStore.endpoint=", "objectStore.endpoint"),
    "no keys of the store": ("objectStore.existingSecret=", "objectStore.existingSecret"),
    "an account of the bucket with keys": (
        "serviceAccount.bucket.annotations.a=b",
        "serviceAccount.bucket objectStore.credentials",
    ),
    "an account of the model store without the store": (
        "serviceAccount.modelStore.annotations.a=b",
        "serviceAccount.modelStore models.store",
    ),
    "keys of the store and a role": ("objectStore.credentials=chain", "objectStore.existingSecret"),
    "brokers without the secret of their passwords": (
        "kafka.existingSecret=",
        "kafka.existingSecret",
    ),
    "passwords without authentication": (
        "kafka.securityProtocol=PLAINTEXT",
        "kafka.securityProtocol",
    ),
    "a drain time outside of shutdown": (
        "services.gateway.settings.drain_seconds=120",
        "services.gateway.settings.drain_seconds",
    ),
    "connections older than the shutdown of the gateway": (
        "serviceDefaults.settings.connection_age_seconds=300",
        "settings.connection_age_seconds",
    ),
    "two gateways without Valkey": ("valkey.existingSecret=", "valkey.existingSecret"),
    "an autoscaled spool": (
        "services.feedback.autoscaling.enabled=true",
        "services.feedback.autoscaling",
    ),
    "fewer replicas at most than at least": (
        "services.session.autoscaling.enabled=true,services.session.autoscaling.maxReplicas=1",
        "services.session.autoscaling",
    ),
    "an ingress without a host": ("ingress.enabled=true,ingress.tls=controller", "ingress.host"),
    "an ingress without a certificate": (
        "ingress.enabled=true,ingress.host=chat.example",
        "ingress.tlsSecret",
    ),
    "an ingress with two certificates": (
        "ingress.enabled=true,ingress.host=chat.example,ingress.tls=controller,"
        "ingress.tlsSecret=chat",
        "ingress.tls",
    ),
    "a route without a Gateway": ("gatewayApi.grpc.enabled=true", "gatewayApi.grpc.gateway"),
    "both routes with one host on one listener": (
        f"{ROUTES},gatewayApi.http.hosts={{*.example}},gatewayApi.grpc.hosts={{chat.example}}",
        "gatewayApi.grpc.hosts chat.example *.example",
    ),
    "both routes with every host on every listener": (
        f"{ROUTES},gatewayApi.http.sectionName=https,gatewayApi.grpc.namespace=default",
        "gatewayApi.grpc.hosts",
    ),
    "source ranges without a load balancer": (
        "publicService.loadBalancerSourceRanges={192.0.2.0/24}",
        "publicService.loadBalancerSourceRanges",
    ),
    "a class without a load balancer": (
        "publicService.type=NodePort,publicService.loadBalancerClass=internal",
        "publicService.loadBalancerClass",
    ),
    "a policy of external traffic without any": (
        "publicService.externalTrafficPolicy=Local",
        "publicService.externalTrafficPolicy",
    ),
    "no decision on egress": (
        "networkPolicies.storesAnywhere=false",
        "networkPolicies.stores networkPolicies.storesAnywhere",
    ),
    "two decisions on egress": (
        "networkPolicies.stores[0].to[0].podSelector.matchLabels.app=stores",
        "networkPolicies.storesAnywhere",
    ),
    "egress to every address with cloud metadata": (
        f"networkPolicies.storesAnywhere=false,{STORE}=0.0.0.0/0",
        "networkPolicies.stores 0.0.0.0/0",
    ),
    "egress to a range with cloud metadata": (
        f"networkPolicies.storesAnywhere=false,{STORE}=160.0.0.0/3",
        "networkPolicies.stores 160.0.0.0/3",
    ),
    "egress to the IPv6 address of cloud metadata": (
        "networkPolicies.apiServer[0].to[0].ipBlock.cidr=::/0",
        "networkPolicies.apiServer ::/0",
    ),
    "a port that no store has": (
        f"networkPolicies.storesAnywhere=false,{STORE}=10.0.0.0/8,"
        "networkPolicies.stores[0].ports[0].port=6432",
        "networkPolicies.stores 6432 networkPolicies.ports",
    ),
    "a port of a store by name": (
        f"networkPolicies.storesAnywhere=false,{STORE}=10.0.0.0/8,"
        "networkPolicies.stores[0].ports[0].port=postgres",
        "networkPolicies.stores postgres",
    ),
    "monitors without peers that may scrape": (
        "gitops=true,monitoring.podMonitors.enabled=true",
        "networkPolicies.metricsFrom",
    ),
    "backups in a bucket and a claim": (
        "backup.enabled=true,backup.claim.existingClaim=backups,backup.bucket.name=backups",
        "backup.claim.existingClaim",
    ),
    "backups in another store without its secret": (
        "backup.enabled=true,backup.bucket.endpoint=s3.other,backup.bucket.name=backups",
        "backup.bucket.name",
    ),
    "backups encrypted by the keys of user data": (
        "backup.enabled=true,backup.encryptionSecret=keys",
        "backup.encryptionSecret",
    ),
    "backups in the claim of the models": (
        "backup.enabled=true,backup.claim.existingClaim=models",
        "backup.claim.existingClaim",
    ),
    "rules without an operator": (
        "gitops=false,monitoring.rules.enabled=true",
        "monitoring.rules.enabled",
    ),
    "monitors without an operator": (
        "gitops=false,monitoring.podMonitors.enabled=true,networkPolicies.enabled=false",
        "monitoring.podMonitors.enabled PodMonitor",
    ),
    "both scalers": (
        "services.session.autoscaling.enabled=true,services.session.keda.enabled=true,"
        "services.session.keda.triggers[0].type=cpu",
        "services.session.keda.enabled",
    ),
    "KEDA without a trigger": (
        "gitops=true,services.session.keda.enabled=true",
        "services.session.keda.triggers",
    ),
    "KEDA without its operator": (
        "gitops=false,services.session.keda.enabled=true,services.session.keda.triggers[0].type=cpu",
        "services.session.keda.enabled",
    ),
    "a spool scaled by KEDA": (
        "services.feedback.keda.enabled=true,services.feedback.keda.triggers[0].type=cpu",
        "services.feedback.keda",
    ),
    "an authority without a secret": (
        "kafka.existingSecret=,kafka.securityProtocol=SSL",
        "kafka.caSecret",
    ),
    "external brokers and brokers of Strimzi": (
        "gitops=true,kafka.strimzi.enabled=true,kafka.existingSecret=,kafka.caKey=,"
        "kafka.securityProtocol=PLAINTEXT",
        "kafka.bootstrap kafka.strimzi.enabled",
    ),
    "more in-sync replicas than replicas": (
        "kafka.topics.minInsyncReplicas=4",
        "kafka.topics.minInsyncReplicas",
    ),
    "GitOps with generated keys": ("gitops=true,secrets.existing=", "secrets.existing"),
    "certificates without cert-manager": ("gitops=false,tls.mode=certManager", "tls.mode"),
    "certificates that are renewed at once": (
        "gitops=true,tls.mode=certManager,tls.certManager.duration=24h",
        "tls.certManager.renewBefore",
    ),
    "GitOps with a generated key of the model server": (
        "gitops=true,serving.existingSecret=",
        "serving.existingSecret",
    ),
    "RayJobs without an operator": (
        "gitops=false,training.enabled=true,ray.mode=kuberay",
        "ray.mode",
    ),
    "a recipe for another model": (
        "training.enabled=true,training.recipe=small,models.initial=nano-0",
        "training.recipe models.initial nano-0",
    ),
    "recipe auto for a model with a recipe of its own": (
        "training.enabled=true,training.recipe=auto,models.initial=nano-1",
        "training.recipe models.initial nano-1",
    ),
    "GPUs for a run without Ray": (
        "training.enabled=true,ray.mode=local,ray.workers.gpus=1,ray.workers.nodeSelector.pool=gpu",
        "ray.workers.gpus ray.mode",
    ),
    "GPUs in one pod without a node selector": (
        "training.enabled=true,ray.workers.gpus=1",
        "ray.workers.nodeSelector",
    ),
    "recipe auto with unknown GPUs of other pods": (
        f"{RAY},ray.workers.gpus=1,ray.workers.nodeSelector.pool=gpu,models.initial=base-1",
        "training.hardware.accelerator",
    ),
    "GPUs without a node selector": (f"{RAY},ray.workers.gpus=1", "ray.workers.nodeSelector"),
    "GPUs set twice": (f"{RAY},{GPU}", "ray.workers.resources.limits"),
    "an autoscaler in one pod": (
        "training.enabled=true,ray.autoscaling.enabled=true",
        "ray.autoscaling.enabled",
    ),
    "more workers at least than at most": (
        f"{RAY},{SCALED},ray.autoscaling.minReplicas=2",
        "ray.autoscaling.minReplicas",
    ),
    "fewer workers in one pod": (
        "training.enabled=true,ray.workers.minReplicas=1",
        "ray.workers.minReplicas",
    ),
    "rollout actors in one pod": ("training.enabled=true,ray.rolloutActors=1", "ray.rolloutActors"),
    "benchmark items in the claim of the models": (
        "training.enabled=true,models.existingClaim=shared,"
        "training.benchmarks.items.existingClaim=shared",
        "training.benchmarks.items.existingClaim",
    ),
    "more workers at first than at most": (
        f"{RAY},ray.workers.minReplicas=2",
        "ray.workers.minReplicas",
    ),
    "rollout actors in an elastic group": (
        f"{RAY},ray.workers.minReplicas=1,ray.rolloutActors=1",
        "ray.rolloutActors",
    ),
    "rollout actors on the GPUs of workers": (
        f"{RAY},ray.rolloutActors=1,ray.workers.gpus=1,ray.workers.nodeSelector.pool=gpu",
        "ray.rolloutActors",
    ),
    "workers in pods without the server of the first": (
        f"{RAY},training.rollouts.engine=vllm,ray.workers.replicas=2",
        "training.rollouts.engine ray.workers.replicas",
    ),
    "two sources of rollouts": (
        f"{RAY},training.rollouts.engine=vllm,ray.rolloutActors=1",
        "training.rollouts.engine ray.rolloutActors",
    ),
    "a number type of another engine": (
        "training.enabled=true,training.rollouts.engine=predictor,training.rollouts.dtype=bfloat16",
        "training.rollouts.dtype bfloat16",
    ),
    "an environment of vLLM without vLLM": (
        "training.enabled=true,training.rollouts.environment.existingClaim=vllm",
        "training.rollouts.environment.existingClaim",
    ),
    "a queue with autoscaling": (f"{RAY},{SCALED},ray.queueName=night", "ray.queueName"),
    "a canary longer than its run": (
        "training.enabled=true,training.canary.seconds=90000",
        "training.canary.seconds",
    ),
    "no settings of a corpus": (
        f"corpus.enabled=true,{CORPUS_CLAIMS}",
        "corpus.config",
    ),
    "no sources of a corpus": (
        f"corpus.enabled=true,{SEED},corpus.output.existingClaim=a",
        "corpus.input.existingClaim",
    ),
    "no place for a corpus": (
        f"corpus.enabled=true,{SEED},corpus.input.existingClaim=a",
        "corpus.output.existingClaim",
    ),
    "a corpus in its sources": (
        f"corpus.enabled=true,{SEED},corpus.input.existingClaim=a,corpus.output.existingClaim=a",
        "corpus.output.subPath",
    ),
    "an authority of Postgres that is not read": (
        "database.host=db,database.name=chat,database.caSecret=ca",
        "database.sslMode",
    ),
    "a host without a database": ("database.host=db", "database.name"),
    "parts of a URL": ("database.sslMode=require", "database.host"),
    "a database of a service without one": (
        "database.services.guardrail.host=db",
        "database.services.guardrail",
    ),
    "an imported version with capitals": (
        "models.import.source=owner/model,models.initial=Model-0",
        "models.initial Model-0",
    ),
    "a token without a source": (
        "models.import.tokenSecret=hub",
        "models.import.source models.import.tokenSecret",
    ),
    "a chat template without a source": (
        "models.import.chatTemplate=x",
        "models.import.source models.import.chatTemplate",
    ),
    "a hub for a source in a bucket": (
        "models.import.source=s3://team/m,models.initial=m,models.import.hub=http://h",
        "models.import.hub",
    ),
    "a model for tests in a store": (
        "models.store=s3://thumbwheel/models,models.initial=nano-0",
        "models.store",
    ),
    "a secret of KServe without a store": (
        "serving.kserve.storageSecret=s3",
        "serving.kserve.storageSecret",
    ),
    "an external model without a secret": (
        f"{RIVAL},externalModels.models.rival.secretKey=rival",
        "externalModels.existingSecret",
    ),
    "an external model without TLS": (
        f"{RIVAL},externalModels.models.rival.url=http://models.ai:8000/v1",
        "externalModels.models.rival.url",
    ),
    "an external host with a name of the cluster": (
        f"{RIVAL},externalModels.models.rival.url=http://models.svc.example/v1",
        "externalModels.models.rival.url",
    ),
    "egress to no external model": (
        "externalModels.egress[0].ports[0].port=443",
        "externalModels.egress",
    ),
    "external models as a setting": (
        "services.generator.settings.external_models.rival.url=https://api.example/v1",
        "services.generator.settings.external_models",
    ),
    "a guard model without a name": (
        "guardrail.operator.endpoint=https://guard.example/v1",
        "guardrail.operator.model",
    ),
    "a guard model without TLS": (
        f"{GUARD}=http://guard.example/v1",
        "guardrail.operator.endpoint",
    ),
    "a guard model without TLS at an IPv6 address": (
        f"{GUARD}=http://[2001:db8::1]/v1",
        "guardrail.operator.endpoint",
    ),
    "egress to no guard model": (
        "guardrail.operator.egress[0].ports[0].port=443",
        "guardrail.operator.egress",
    ),
    "a guard model without its policy": (
        f"{GUARD}=https://guard.example/v1,guardrail.operator.format=json",
        "guardrail.operator.prompt",
    ),
    "a policy for a guard model that has one": (
        f"{GUARD}=https://guard.example/v1,guardrail.operator.prompt=x",
        "guardrail.operator.prompt",
    ),
    "a guard model as a setting": (
        "services.guardrail.settings.operator_model=guard-1",
        "services.guardrail.settings.operator_model",
    ),
    "a draw of removed items": ("reviewDraw.enabled=true,reviewDraw.days=90", "reviewDraw.days"),
    "a draw of items that are removed early": (
        "reviewDraw.enabled=true,reviewDraw.days=40,services.review.settings.item_days=40",
        "reviewDraw.days",
    ),
    "zones apart on one node": (
        f"{OWN_CLAIM},spread.zones.whenUnsatisfiable=DoNotSchedule",
        f"spread.zones.whenUnsatisfiable {ONE_NODE}",
    ),
    "a model server on another node": (
        f"{OWN_CLAIM},serving.predictor.nodeSelector.pool=cpu",
        f"serving.predictor.nodeSelector {ONE_NODE}",
    ),
    "a run on another node": (
        f"{OWN_CLAIM},training.enabled=true,ray.mode=job,ray.workers.nodeSelector.pool=gpu",
        f"training.nodeSelector {ONE_NODE}",
    ),
    "pods apart on one node": (
        f"{OWN_CLAIM},services.session.affinity.podAntiAffinity."
        "requiredDuringSchedulingIgnoredDuringExecution[0]"
        ".labelSelector.matchLabels.app\\.kubernetes\\.io/component=session",
        f"services.session.affinity {ONE_NODE}",
    ),
}
