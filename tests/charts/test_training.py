"""Scheduled runs of the loop.

Training accepts the arguments of the chart, and every pod has only the mounts and rights it needs.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from infra.install.environment import ROOT
from tests.charts.rendering import CHART, component, of_kind, outside_ports, pods, ray_job, render
from training.__main__ import parser as training_parser
from training.data.feedback.bucket import bucket_location
from training.launching.__main__ import parser as launcher_parser
from training.recipes.custom.recipe_file import set_parts
from training.runtime.context import Lineage
from training.serving.rollout_server import ServedType, ServerEngine
from training.stages.ppo import PpoConfig

JOB, RAY = "one-node-values.yaml", "ray-values.yaml"
EVALUATION = ("evaluation-values.yaml", "training.enabled=true")
LOOP_PODS = {JOB: "training/CronJob", RAY: "training/RayJob"}
every_mode = pytest.mark.parametrize("values", LOOP_PODS)


def only(pod: Any) -> Any:
    (container,) = pod["spec"]["containers"]
    return container


def arguments(values: str, *sets: str) -> list[str]:
    """Return the arguments behind `python -m training`."""
    given: list[str] = only(pods(render(values, *sets))[LOOP_PODS[values]])["args"]
    return given[given.index("training") + 1 :]


def mounts(pod: Any) -> dict[str, Any]:
    """Return claim and write access for each mount path."""
    volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
    claims = {
        name: volume.get("persistentVolumeClaim", {}).get("claimName")
        for name, volume in volumes.items()
    }
    return {
        mount["mountPath"]: (claims[mount["name"]], not mount.get("readOnly", False))
        for mount in only(pod)["volumeMounts"]
        if claims.get(mount["name"])
    }


ANYWHERE = ("networkPolicies.stores=null", "networkPolicies.storesAnywhere=true")


def policies(values: str, *sets: str) -> dict[str, Any]:
    return {
        component(item): item["spec"] for item in of_kind(render(values, *sets), "NetworkPolicy")
    }


def peers(rules: Any, key: str) -> set[str]:
    found = [
        peer["podSelector"]["matchLabels"]
        for rule in rules or ()
        for peer in rule.get(key, ())
        if "podSelector" in peer
    ]
    return {
        str(labels.get("app.kubernetes.io/component", labels["app.kubernetes.io/name"]))
        for labels in found
    }


@every_mode
def test_training_accepts_its_arguments(values: str) -> None:
    options = training_parser().parse_args(arguments(values))
    assert str(options.state) == "/"
    assert options.scheduled
    assert options.patience == 120
    assert options.feedback.endswith("-feedback:50056")
    assert options.generator.endswith("-generator:50055")
    assert options.review.endswith("-review:50058")
    expected = ((4, None), 1, "0.1", "14400") if values == RAY else ((1, None), 0, None, None)
    assert (
        options.workers,
        options.gpus_per_worker,
        options.canary_share,
        options.canary_seconds,
    ) == expected
    assert options.canary_users == "20"
    assert options.canary_steps == "0.02,0.05,0.2"


@pytest.mark.parametrize(
    ("initial", "recipe"), [("nano-0", "nano"), ("small-12", "small"), ("smaller-1", "auto")]
)
def test_the_recipe_is_that_of_the_initial_model(initial: str, recipe: str) -> None:
    hardware = ("training.hardware.accelerator=h100", "training.hardware.memoryGib=15")
    named = (f"models.initial={initial}", *hardware)
    options = training_parser().parse_args(arguments(RAY, *named))
    launcher = only(pods(render(RAY, *named))["launcher/CronJob"])["args"]
    assert options.recipe == recipe
    assert f"--recipe={recipe}" in launcher
    planned = (options.accelerator, options.memory_gib, options.cores)
    assert planned == (("h100", 15, None) if recipe == "auto" else (None, None, None))


def test_runs_are_by_ray_where_nothing_is_set() -> None:
    """RayJobs where the operator is, otherwise Ray inside the pod of a run."""
    with_operator = render("existing-values.yaml", "training.enabled=true")
    assert ray_job(with_operator)
    without = render("existing-values.yaml", "training.enabled=true", operators=())
    assert ray_job(without) is None
    args = only(pods(without)["training/CronJob"])["args"]
    assert training_parser().parse_args(args[1:]).workers == (1, None)


def test_a_mode_is_not_replaced_by_what_the_cluster_has() -> None:
    """The operator is installed in each rendering."""
    assert ray_job(render(JOB)) is None
    assert ray_job(render(JOB, "ray.mode=kuberay"))
    local = "ray.mode=local"
    assert ray_job(render(JOB, local)) is None
    options = training_parser().parse_args(arguments(JOB, local))
    assert (options.workers, options.gpus_per_worker) == ((0, None), None)


def test_the_pod_of_a_run_has_the_gpus_and_the_nodes_of_its_workers() -> None:
    workers = ("ray.workers.replicas=4", "ray.workers.gpus=2", "ray.workers.nodeSelector.pool=gpu")
    toleration = {"key": "gpu", "operator": "Exists"}
    given = [f"ray.workers.tolerations[0].{key}={value}" for key, value in toleration.items()]
    given += ["training.nodeSelector.zone=a", "training.tolerations[0].key=batch"]
    # The pod may leave the node of the services.
    given += [f"{claim}.accessModes[0]=ReadWriteMany" for claim in ("models", "training.loop")]
    options = training_parser().parse_args(arguments(JOB, *workers, *given))
    assert (options.workers, options.gpus_per_worker) == ((4, None), 2)
    pod = pods(render(JOB, *workers, *given))["training/CronJob"]
    assert only(pod)["resources"]["limits"]["nvidia.com/gpu"] == 8
    assert pod["spec"]["nodeSelector"] == {"zone": "a", "pool": "gpu"}
    assert pod["spec"]["tolerations"] == [{"key": "batch"}, toleration]
    volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
    shared = next(m["name"] for m in only(pod)["volumeMounts"] if m["mountPath"] == "/dev/shm")
    assert volumes[shared]["emptyDir"]["medium"] == "Memory"


ROLLOUTS = ("training.rollouts.engine=vllm", "training.rollouts.environment.existingClaim=vllm")


@pytest.mark.parametrize("mode", ["job", "local", "kuberay"])
def test_a_model_server_samples_in_the_pod_of_the_first_worker(mode: str) -> None:
    words = "training.rollouts.arguments={--enforce-eager,--max-num-seqs=4}"
    objects = render(JOB, f"ray.mode={mode}", *ROLLOUTS, "training.rollouts.dtype=float32", words)
    kuberay = mode == "kuberay"
    head = pods(objects)["training/RayJob" if kuberay else "training/CronJob"]
    given = only(head)["args"] if not kuberay else ray_job(objects)["spec"]["entrypoint"].split()
    options = training_parser().parse_args(given[given.index("training") + 1 :])
    here = Path()
    ppo = PpoConfig(here, here, here, Lineage("v"), reward_model_directory=here)
    ppo = set_parts({"ppo": ppo}, options.set)["ppo"]
    server = ppo.rollout_server
    assert server is not None
    assert (server.engine, server.dtype) == (ServerEngine.VLLM, ServedType.FLOAT32)
    assert str(server.python) == "/opt/vllm/bin/python"
    assert server.arguments == ("--enforce-eager", "--max-num-seqs=4")
    assert (server.kv_gigabytes, ppo.importance_cap) == (1, 2)
    worker = pods(objects)["ray-worker/RayJob"] if kuberay else head
    assert mounts(worker)["/opt/vllm"] == ("vllm", False)
    # KubeRay mounts /dev/shm into the pods of Ray.
    shared = [m for m in only(worker)["volumeMounts"] if m["mountPath"] == "/dev/shm"]
    assert bool(shared) is not kuberay


def test_rollouts_are_sampled_by_the_policy_where_nothing_is_set() -> None:
    assert training_parser().parse_args(arguments(JOB)).set == []
    assert "/opt/vllm" not in mounts(pods(render(JOB))["training/CronJob"])


def test_the_server_of_rollouts_changes_no_network_policy() -> None:
    """It listens on loopback, which policies do not concern."""
    assert policies(JOB, *ROLLOUTS) == policies(JOB)


def test_extra_arguments_take_precedence() -> None:
    options = training_parser().parse_args(arguments(JOB, "training.extraArgs={--workers=2}"))
    assert options.workers == (2, None)
    options = training_parser().parse_args(arguments(JOB, "training.extraArgs={--workers=1..2}"))
    assert options.workers == (2, 1)


@every_mode
def test_only_the_pod_of_the_loop_gets_its_security_context(values: str) -> None:
    profile = {"type": "Localhost", "localhostProfile": "sandbox.json"}
    name = "training.securityContext.seccompProfile"
    given = [f"{name}.{key}={value}" for key, value in profile.items()]
    found = {
        each: pod["spec"]["securityContext"] for each, pod in pods(render(values, *given)).items()
    }
    loop = found.pop(LOOP_PODS[values])
    default = next(iter(found.values()))
    assert loop == {**default, "seccompProfile": profile}
    assert default["seccompProfile"] == {"type": "RuntimeDefault"}
    assert [each for each, context in found.items() if context != default] == []


def test_profile_for_the_sandbox_adds_its_system_calls_only() -> None:
    profile = json.loads((CHART / "files" / "sandbox-seccomp.json").read_text())
    rules = {name: rule for rule in profile["syscalls"] for name in rule["names"]}
    assert profile["defaultAction"] == "SCMP_ACT_ERRNO"
    needed = ("clone", "mount", "pivot_root", "sethostname", "umount2")
    assert [name for name in needed if "args" in rules[name]] == []
    # Flags of clone3 are invisible to filters, and unshare is not needed.
    assert rules["clone3"]["action"] == "SCMP_ACT_ERRNO"
    assert [name for name in ("bpf", "setns", "unshare", "reboot") if name in rules] == []


@every_mode
def test_benchmarks_of_the_gate_reach_the_loop_with_their_items(values: str) -> None:
    items = "training.benchmarks.items.existingClaim=items"
    given = ("training.benchmarks.tasks={piqa,lambada}", items)
    assert training_parser().parse_args(arguments(values, *given)).gate_tasks == ("piqa", "lambada")
    assert training_parser().parse_args(arguments(values)).gate_tasks == ()
    found = pods(render(values, *given))
    loop_pod = found[LOOP_PODS[values]]
    folder = Path(environment(loop_pod)["THUMBWHEEL_CACHE"]) / "data"
    assert mounts(loop_pod)[str(folder)] == ("items", False)
    others = [pod for name, pod in found.items() if name != LOOP_PODS[values]]
    assert "items" not in {
        volume.get("persistentVolumeClaim", {}).get("claimName")
        for pod in others
        for volume in pod["spec"].get("volumes", ())
    }
    assert "THUMBWHEEL_CACHE" not in environment(pods(render(values))[LOOP_PODS[values]])


def environment(pod: Any) -> dict[str, str]:
    return {item["name"]: item.get("value", "") for item in only(pod)["env"]}


def test_worker_ranges_and_rollout_actors_reach_training_and_have_pods() -> None:
    fixed = "ray.autoscaling.enabled=false"
    elastic = training_parser().parse_args(arguments(RAY, "ray.workers.minReplicas=2"))
    assert (elastic.workers, elastic.rollout_actors) == ((4, 2), 0)
    sampled = ("ray.rolloutActors=3", "ray.workers.gpus=0", fixed)
    options = training_parser().parse_args(arguments(RAY, *sampled))
    assert (options.workers, options.rollout_actors) == ((4, None), 3)
    (workers,) = ray_job(render(RAY, *sampled))["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert (workers["replicas"], workers["minReplicas"], workers["maxReplicas"]) == (7, 7, 7)


def bucket_environment(pod: Any) -> dict[str, str]:
    return {
        item["name"]: item.get("value") or item["valueFrom"]["secretKeyRef"]["key"]
        for item in only(pod)["env"]
        if item["name"].startswith("TW_TRAINING_S3_")
    }


@every_mode
def test_checkpoints_go_to_the_bucket_unless_disabled(values: str) -> None:
    disabled = "training.checkpointsInBucket=false"
    for changes, expected in (((), True), ((disabled,), None)):
        options = training_parser().parse_args(arguments(values, *changes))
        assert options.checkpoints_in_bucket is expected


def test_workers_reach_the_bucket_only_with_checkpoints_in_it() -> None:
    volume = "training.checkpointsInBucket=false"
    found = pods(render(RAY))
    assert bucket_environment(found["ray-worker/RayJob"]) == bucket_environment(
        found["training/RayJob"]
    )
    assert bucket_location(bucket_environment(found["ray-worker/RayJob"])) is not None
    assert outside_ports(policies(RAY, *ANYWHERE)["ray-worker"]) == {8333}
    assert not bucket_environment(pods(render(RAY, volume))["ray-worker/RayJob"])
    assert outside_ports(policies(RAY, *ANYWHERE, volume)["ray-worker"]) == set()
    assert not bucket_environment(found["ray-submitter/RayJob"])
    evaluated = policies(*EVALUATION, "ray.mode=kuberay")
    assert "s3" in peers(evaluated["ray-worker"]["egress"], "to")
    assert "ray-worker" in peers(evaluated["s3"]["ingress"], "from")
    assert "ray-worker" not in peers(
        policies(*EVALUATION, "ray.mode=kuberay", volume)["s3"]["ingress"], "from"
    )


@every_mode
def test_an_evicted_pod_has_the_notice_time_of_the_values(values: str) -> None:
    found = pods(render(values, "training.terminationGracePeriodSeconds=90"))
    pod = found["training/CronJob" if values == JOB else "ray-worker/RayJob"]
    assert pod["spec"]["terminationGracePeriodSeconds"] == (90 if values == JOB else 105)
    if values == RAY:
        drains = {"name": "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S", "value": "90"}
        assert drains in only(pod)["env"]


@every_mode
def test_training_accepts_the_location_of_the_bucket(values: str) -> None:
    location = bucket_location(bucket_environment(pods(render(values))[LOOP_PODS[values]]))
    assert location is not None
    assert (location.access_key, location.secret_key, location.secure) == (
        "access-key",
        "secret-key",
        values == RAY,
    )
    assert location.endpoint == ("s3.stores:8333" if values == RAY else "s3:8333")


@every_mode
def test_models_and_loop_have_the_same_paths_and_readers_cannot_write(
    values: str,
) -> None:
    found = pods(render(values))
    loop = mounts(found[LOOP_PODS[values]])
    assert {location: writes for location, (_, writes) in loop.items()} == {
        "/models": True,
        "/loop": True,
    }
    assert mounts(found["gateway/Deployment"]) == {"/loop": (loop["/loop"][0], False)}
    for reader in ("generator", "session", "predictor"):
        assert mounts(found[f"{reader}/Deployment"]) == {"/models": (loop["/models"][0], False)}


def test_the_first_version_is_stored_under_its_name() -> None:
    """The registry finds a version by the name of its folder, and a manifest names its parents."""
    objects = render(*EVALUATION, "models.initial=nano-0", "training.recipe=nano")
    seeds = [
        c
        for pod in pods(objects).values()
        for c in pod["spec"].get("initContainers", ())
        if c["name"] == "model"
    ]
    assert seeds
    assert all('"/models/nano-0"' in seed["args"][0] for seed in seeds)
    environment = {
        item["name"]: item.get("value")
        for item in only(pods(objects)["generator/Deployment"])["env"]
    }
    assert environment["TW_GENERATOR_STABLE_DIRECTORY"] == "/models/nano-0"


def test_a_run_in_one_pod_is_resumed_and_never_concurrent() -> None:
    (cron,) = of_kind(render(JOB), "CronJob")
    assert cron["spec"]["concurrencyPolicy"] == "Forbid"
    job = cron["spec"]["jobTemplate"]["spec"]
    assert (job["backoffLimit"], job["activeDeadlineSeconds"], job["podReplacementPolicy"]) == (
        2,
        86400,
        "Failed",
    )
    assert {
        tuple(rule.get("onExitCodes", {}).get("values", ())): rule["action"]
        for rule in job["podFailurePolicy"]["rules"]
    } == {
        (): "Ignore",
        (3,): "FailJob",
    }


def test_only_the_launcher_uses_the_api_server_and_accepts_its_arguments() -> None:
    objects = render(RAY)
    launcher = pods(objects)["launcher/CronJob"]
    options = launcher_parser().parse_args(only(launcher)["args"][1:])
    assert (options.job, options.job_uid) == ("$(JOB)", "$(JOB_UID)")
    assert options.deadline_seconds == ray_job(objects)["spec"]["activeDeadlineSeconds"]
    places = {mount["mountPath"] for mount in only(launcher)["volumeMounts"]}
    assert {str(options.template.parent), str(options.account), str(options.loop)} == places
    assert only(launcher)["image"] == "thumbwheel-services:0.1.0"
    accounts = {name: pod["spec"].get("serviceAccountName") for name, pod in pods(objects).items()}
    assert [name for name, account in accounts.items() if account == "tw-thumbwheel-launcher"] == [
        "launcher/CronJob"
    ]
    (binding,) = of_kind(objects, "RoleBinding")
    assert [subject["name"] for subject in binding["subjects"]] == ["tw-thumbwheel-launcher"]


def test_the_rights_of_the_launcher_are_those_it_uses() -> None:
    (role,) = of_kind(render(RAY), "Role")
    rights = {
        (rule["resources"][0], verb, *rule.get("resourceNames", ()))
        for rule in role["rules"]
        for verb in rule["verbs"]
    }
    assert rights == {
        ("rayjobs", "create"),
        ("rayjobs", "get", "tw-thumbwheel-run"),
        ("rayjobs", "delete", "tw-thumbwheel-run"),
        ("rayclusters", "get"),
        ("pods", "list"),
        ("events", "list"),
    }


def test_a_ray_job_has_the_fields_that_kuberay_needs() -> None:
    spec = ray_job(render(RAY))["spec"]
    assert (spec["submissionMode"], spec["submitterConfig"]) == ("K8sJobMode", {"backoffLimit": 0})
    assert (spec["shutdownAfterJobFinishes"], spec["backoffLimit"]) == (True, 2)
    cluster = spec["rayClusterSpec"]
    head, (workers,) = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert all(
        isinstance(item, str)
        for group in (head, workers)
        for item in group["rayStartParams"].values()
    )
    for group in (head, workers):
        container = only(group["template"])
        assert {"httpGet"} == {
            key for key in container["readinessProbe"] if key in ("exec", "httpGet")
        }
        assert {"name": "RAY_AUTH_MODE", "value": "token"} in container["env"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert only(workers["template"])["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert workers["template"]["spec"]["nodeSelector"] == {"pool": "gpu"}
    assert "securityContext" in only(spec["submitterPodTemplate"])
    assert {volume["name"] for volume in spec["submitterPodTemplate"]["spec"]["volumes"]} == {"tmp"}


def test_workers_may_claim_devices() -> None:
    cluster = ray_job(render(RAY, "ray.workers.resources.claims[0].name=gpu"))["spec"]
    (workers,) = cluster["rayClusterSpec"]["workerGroupSpecs"]
    assert only(workers["template"])["resources"]["claims"] == [{"name": "gpu"}]


def test_authentication_of_ray_is_disabled_by_a_value_only() -> None:
    job = ray_job(render(RAY, "ray.authentication=disabled"))["spec"]
    assert "authOptions" not in job["rayClusterSpec"]
    container = only(job["rayClusterSpec"]["headGroupSpec"]["template"])
    assert {"name": "RAY_AUTH_MODE", "value": "disabled"} in container["env"]


def test_only_pods_of_a_named_namespace_reach_the_dashboard() -> None:
    """Finding S-12: any pod of any namespace with the label of the operator reached the head."""
    rules = [rule for rule in policies(RAY)["training"]["ingress"] if "ports" in rule]
    assert [[port["port"] for port in rule["ports"]] for rule in rules] == [[8265]]
    for peer in rules[0]["from"]:
        assert "kubernetes.io/metadata.name" in peer["namespaceSelector"]["matchLabels"]
        assert peer["podSelector"]["matchLabels"]


def test_the_ray_version_equals_that_of_the_image() -> None:
    locked = re.findall(r"^ray==(\S+)", (ROOT / "locks" / "training.txt").read_text(), re.MULTILINE)
    assert [ray_job(render(RAY))["spec"]["rayClusterSpec"]["rayVersion"]] == locked


def test_the_autoscaler_sets_the_number_of_workers() -> None:
    def group(*sets: str) -> tuple[Any, ...]:
        cluster = ray_job(render(RAY, *sets))["spec"]["rayClusterSpec"]
        (workers,) = cluster["workerGroupSpecs"]
        sizes = tuple(workers[name] for name in ("replicas", "minReplicas", "maxReplicas"))
        return (*sizes, cluster.get("enableInTreeAutoscaling", False))

    assert group() == (0, 0, 4, True)
    assert group("ray.autoscaling.enabled=false") == (4, 4, 4, False)


def test_the_head_has_a_token_only_with_the_autoscaler() -> None:
    fixed = pods(render(RAY, "ray.autoscaling.enabled=false"))["training/RayJob"]["spec"]
    assert (fixed["automountServiceAccountToken"], fixed["serviceAccountName"]) == (
        False,
        "tw-thumbwheel",
    )


def test_the_queue_label_is_on_the_jobs_that_kueue_admits() -> None:
    label = "kueue.x-k8s.io/queue-name"
    queued = ray_job(render(RAY, "ray.autoscaling.enabled=false", "ray.queueName=night"))
    assert queued["metadata"]["labels"][label] == "night"
    (cron,) = of_kind(render(JOB, "ray.queueName=night"), "CronJob")
    assert cron["spec"]["jobTemplate"]["metadata"]["labels"][label] == "night"
    assert label not in ray_job(render(RAY))["metadata"]["labels"]


def test_only_the_head_of_the_ray_pods_reaches_the_services() -> None:
    found = policies(RAY)
    assert peers(found["training"]["ingress"], "from") == {
        "training",
        "ray-worker",
        "ray-submitter",
        "kuberay-operator",
    }
    assert {"feedback", "generator", "review", "training", "ray-worker"} == peers(
        found["training"]["egress"], "to"
    )
    for way, key in (("ingress", "from"), ("egress", "to")):
        assert peers(found["ray-worker"][way], key) == {"training", "ray-worker"}
    assert peers(found["ray-submitter"]["egress"], "to") == {"training"}
    assert not found["ray-submitter"].get("ingress")


def test_the_launcher_reaches_only_the_api_server() -> None:
    (rule,) = policies(RAY)["launcher"]["egress"]
    assert [port["port"] for port in rule["ports"]] == [443, 6443]
    given = policies(
        RAY, "networkPolicies.apiServer[0].ports[0].port=6443", "ray.autoscaling.enabled=false"
    )
    assert [port["port"] for port in given["launcher"]["egress"][0]["ports"]] == [6443]
    assert {"to", "ports"} >= {key for rule in given["training"]["egress"] for key in rule}


def test_a_run_in_an_evaluation_reaches_s3_without_open_egress() -> None:
    found = policies(*EVALUATION, "ray.mode=job")
    assert peers(found["training"]["egress"], "to") == {"feedback", "generator", "review", "s3"}
    assert {} not in found["training"]["egress"]
    assert "training" in peers(found["s3"]["ingress"], "from")
    assert "training" not in peers(found["kafka"]["ingress"], "from")


def test_names_leave_room_for_suffixes() -> None:
    objects = render(RAY, release="a-name-as-long-as-helm-lets-anybody-choose-one-53-lon")
    assert len(ray_job(objects)["metadata"]["name"]) <= 47
    assert all(len(item["metadata"]["name"]) <= 52 for item in of_kind(objects, "CronJob"))


def test_without_training_its_objects_are_absent() -> None:
    objects = render("existing-values.yaml")
    components = {"training", "launcher", "loop", "ray-worker", "ray-submitter"}
    assert not [item for item in objects if component(item) in components]
    volumes = {
        volume["name"]: volume for volume in pods(objects)["gateway/Deployment"]["spec"]["volumes"]
    }
    assert volumes["loop"] == {"name": "loop", "emptyDir": {}}
