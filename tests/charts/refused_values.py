"""Values that the chart rejects, with the reported key."""

# With gitops the chart does not check for operators.
RAY = "training.enabled=true,ray.mode=kuberay,gitops=true"
SCALED = "ray.autoscaling.enabled=true"
ROUTES = (
    "gatewayApi.http.enabled=true,gatewayApi.http.gateway=public,"
    "gatewayApi.grpc.enabled=true,gatewayApi.grpc.gateway=public"
)
STORE = "networkPolicies.stores[0].to[0].ipBlock.cidr"
GPU = "ray.workers.nodeSelector.pool=gpu,ray.workers.resources.limits.nvidia\\.com/gpu=2"

# Settings, and the words of the error. Single values are checked by values.schema.json,
# combinations by templates/_validation.tpl.
BY_SCHEMA = {
    "an unknown key": ("servces.gateway.replicas=1", "servces"),
    "the old target of an autoscaler": (
        "services.gateway.autoscaling.cpuPercent=60",
        "cpuPercent",
    ),
    "an unknown key of a service": ("services.gateway.replica=1", "replica"),
    "a word for a number": ("services.gateway.replicas=many", "replicas"),
    "brokers without a port": ("kafka.bootstrap=kafka", "bootstrap"),
    "a host with a scheme": ("ingress.host=https://chat.example", "host"),
    "brokers at port 0": ("kafka.bootstrap=kafka:0", "bootstrap"),
    "an endpoint with a scheme": ("objectStore.endpoint=https://s3", "endpoint"),
    "an unknown origin of credentials": ("objectStore.credentials=iam", "credentials"),
    "an unknown mode": ("serving.mode=gpu", "mode"),
    "an invalid digest": ("images.services.digest=latest", "digest"),
    "a setting in capitals": ("services.gateway.settings.MAX_TURNS=1", "MAX_TURNS"),
    "an unknown alert": ("monitoring.rules.disabled[0]=TurnsFail", "disabled"),
    "a threshold of an unknown alert": (
        "monitoring.rules.thresholds.TurnsFail.ratio=0.1",
        "TurnsFail",
    ),
    "an unknown threshold": (
        "monitoring.rules.thresholds.RequestsFail.share=0.1",
        "share",
    ),
    "a ratio above 1": ("monitoring.rules.thresholds.HttpErrors.ratio=5", "ratio"),
    "a time without a unit": ("monitoring.rules.thresholds.SinkBehind.for=5", "SinkBehind"),
    "pages without a scheme": ("monitoring.rules.runbookBaseUrl=docs.example", "runbookBaseUrl"),
    "a mistyped setting": ("services.gateway.settings.max_turn=1", "max_turn"),
    "a setting of another service": ("services.feedback.settings.max_turns=1", "max_turns"),
    "a common setting of a single service": ("serviceDefaults.settings.max_turns=1", "max_turns"),
    "a mistyped setting of the predictor": (
        "serving.predictor.settings.thread=1",
        "thread",
    ),
    "a secret as a setting": (
        "services.gateway.settings.principal_key=0123456789abcdef",
        "principal_key",
    ),
    "an unknown recipe": ("training.recipe=large", "recipe"),
    "arguments with shell syntax": ("training.extraArgs={--every;ls}", "extraArgs"),
    "an unknown mode of the identity": ("identity.mode=off", "identity"),
    "an unknown mode of TLS": ("tls.mode=on", "tls"),
    "a lifetime in days": ("tls.certManager.duration=90d", "duration"),
    "an unknown mode of Ray": ("ray.mode=cluster", "mode"),
    "an unknown authentication of Ray": ("ray.authentication=none", "authentication"),
    "a temporary folder without a limit": ("tmpSizes.services=null", "tmpSizes"),
    "an unknown engine of rollouts": ("training.rollouts.engine=sglang", "engine"),
    "an argument of vLLM with two values": (
        "training.rollouts.arguments={--max-model-len 256}",
        "arguments",
    ),
    "a source range without a length": (
        "publicService.loadBalancerSourceRanges={192.0.2.0}",
        "loadBalancerSourceRanges",
    ),
    "a timeout without a unit": ("gatewayApi.http.timeouts.request=0", "timeouts"),
    "the earlier name of publicService": ("door.httpPort=80", "door"),
    "the earlier name of terminationGracePeriodSeconds": (
        "training.noticeSeconds=60",
        "noticeSeconds",
    ),
    "the earlier name of ray.workers.minReplicas": ("ray.workers.fewest=1", "fewest"),
    "the earlier name of publicFrom": ("networkPolicies.doorFrom[0]=x", "doorFrom"),
    "no notice time": ("training.terminationGracePeriodSeconds=0", "terminationGracePeriodSeconds"),
}

# Groups of values, which also contain others of the settings above.
BY_SCHEMA_AS_NULL = {
    "no spread": ("spread=null", "missing property 'spread'"),
    "no values of the database": ("database=null", "missing property 'database'"),
    "no monitoring": ("monitoring=null", "missing property 'monitoring'"),
    "no resources of vLLM": ("serving.vllm.resources=null", "missing property 'resources' vllm"),
}

BY_TEMPLATE = {
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
    "an ingress without a host": ("ingress.enabled=true", "ingress.host"),
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
    "rules without an operator": ("monitoring.rules.enabled=true", "monitoring.rules.enabled"),
    "monitors without an operator": (
        "monitoring.podMonitors.enabled=true,networkPolicies.enabled=false",
        "monitoring.podMonitors.enabled PodMonitor",
    ),
    "both scalers": (
        "services.session.autoscaling.enabled=true,services.session.keda.enabled=true,"
        "services.session.keda.triggers[0].type=cpu",
        "services.session.keda.enabled",
    ),
    "KEDA without a trigger": (
        "services.session.keda.enabled=true",
        "services.session.keda.triggers",
    ),
    "KEDA without its operator": (
        "services.session.keda.enabled=true,services.session.keda.triggers[0].type=cpu",
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
        "kafka.strimzi.enabled=true",
        "kafka.bootstrap",
    ),
    "more in-sync replicas than replicas": (
        "kafka.topics.minInsyncReplicas=4",
        "kafka.topics.minInsyncReplicas",
    ),
    "GitOps with generated keys": ("gitops=true,secrets.existing=", "secrets.existing"),
    "certificates without cert-manager": ("tls.mode=certManager", "tls.mode"),
    "certificates that are renewed at once": (
        "gitops=true,tls.mode=certManager,tls.certManager.duration=24h",
        "tls.certManager.renewBefore",
    ),
    "GitOps with a generated key of the model server": (
        "gitops=true,serving.existingSecret=",
        "serving.existingSecret",
    ),
    "RayJobs without an operator": ("training.enabled=true,ray.mode=kuberay", "ray.mode"),
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
}
