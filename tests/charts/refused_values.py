"""Single values that the schema of the chart rejects, with the reported key."""

# Settings, and the words of the error.
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
    "an unknown runtime": ("serving.kserve.runtime=triton", "runtime"),
    "a rank that vLLM does not take": ("serving.vllm.sharedBase.maxRank=100", "maxRank"),
    "an unknown scheme of a source": ("models.import.source=ftp://h/m", "source"),
    "unknown terms": ("models.acceptTerms=all", "acceptTerms"),
    "no workers of a corpus": ("corpus.workers=0", "workers"),
    "an absolute path in a claim": ("corpus.input.subPath=/crawl", "subPath"),
    "an unverified connection to Postgres": ("database.sslMode=prefer", "sslMode"),
    "a block of addresses without the addresses": (
        "networkPolicies.stores[0].to[0].ipBlock.except={10.0.0.0/8}",
        "cidr",
    ),
    "ports that are no list": ("networkPolicies.apiServer[0].ports=443", "ports"),
    "no notice time": ("training.terminationGracePeriodSeconds=0", "terminationGracePeriodSeconds"),
}

# Values and groups of values, which also contain others of the settings above.
BY_SCHEMA_AS_NULL = {
    "no spread": ("spread=null", "missing property 'spread'"),
    "no values of the database": ("database=null", "missing property 'database'"),
    "no decision on policies": (
        "networkPolicies.enabled=null",
        "networkPolicies missing property 'enabled'",
    ),
    "no mode of the identity": ("identity.mode=null", "identity missing property 'mode'"),
    "no replicas": ("serviceDefaults.replicas=null", "serviceDefaults 'replicas'"),
    "no scaler": ("serviceDefaults.keda.enabled=null", "keda missing property 'enabled'"),
    "no monitoring": ("monitoring=null", "missing property 'monitoring'"),
    "no resources of vLLM": ("serving.vllm.resources=null", "missing property 'resources' vllm"),
}
