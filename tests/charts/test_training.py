"""Turns of the loop, by the clock: their words are what training itself understands, and every pod
has only what it needs.
"""

import re
from typing import Any

import pytest

from infra.install.environment import ROOT
from tests.charts.rendering import component, of_kind, pods, ray_job, render
from training.__main__ import _parser as training_parser
from training.data.bucket import bucket_location
from training.launching.__main__ import _parser as launcher_parser

LOCAL, RAY = "one-node-values.yaml", "ray-values.yaml"
EVALUATION = ("evaluation-values.yaml", "training.enabled=true")
LOOP_PODS = {LOCAL: "training/CronJob", RAY: "training/RayJob"}
every_mode = pytest.mark.parametrize("values", LOOP_PODS)


def only(pod: Any) -> Any:
    (container,) = pod["spec"]["containers"]
    return container


def words(values: str, *sets: str) -> list[str]:
    """What `python -m training` is told, after that."""
    said: list[str] = only(pods(render(values, *sets))[LOOP_PODS[values]])["args"]
    return said[said.index("training") + 1 :]


def mounts(pod: Any) -> dict[str, Any]:
    """What is mounted, by its place: the claim, and whether it may be written."""
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


def policies(values: str, *sets: str) -> dict[str, Any]:
    return {
        component(each): each["spec"] for each in of_kind(render(values, *sets), "NetworkPolicy")
    }


def peers(rules: Any, key: str) -> set[str]:
    found = [
        peer["podSelector"]["matchLabels"] for rule in rules or () for peer in rule.get(key, ())
    ]
    return {
        str(labels.get("app.kubernetes.io/component", labels["app.kubernetes.io/name"]))
        for labels in found
    }


@every_mode
def test_training_understands_its_words(values: str) -> None:
    options = training_parser().parse_args(words(values))
    assert str(options.state) == "/"
    assert options.scheduled
    assert options.patience == 120
    assert options.feedback.endswith("-feedback:50056")
    assert options.generator.endswith("-generator:50055")
    wanted = ((4, None), 1, 0.1, 14400) if values == RAY else ((0, None), None, None, None)
    assert (
        options.workers,
        options.gpus_per_worker,
        options.canary_share,
        options.canary_seconds,
    ) == wanted


def test_further_words_count_more() -> None:
    options = training_parser().parse_args(words(LOCAL, "training.extraArgs={--workers=2}"))
    assert options.workers == (2, None)
    options = training_parser().parse_args(words(LOCAL, "training.extraArgs={--workers=1..2}"))
    assert options.workers == (2, 1)


def test_a_range_of_workers_and_rollout_actors_reach_training_and_have_pods() -> None:
    fixed = "ray.autoscaling.enabled=false"
    elastic = training_parser().parse_args(words(RAY, "ray.workers.fewest=2"))
    assert (elastic.workers, elastic.rollout_actors) == ((4, 2), 0)
    sampled = ("ray.rolloutActors=3", "ray.workers.gpus=0", fixed)
    options = training_parser().parse_args(words(RAY, *sampled))
    assert (options.workers, options.rollout_actors) == ((4, None), 3)
    (workers,) = ray_job(render(RAY, *sampled))["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert (workers["replicas"], workers["minReplicas"], workers["maxReplicas"]) == (7, 7, 7)


def told_of_bucket(pod: Any) -> dict[str, str]:
    return {
        each["name"]: each.get("value") or each["valueFrom"]["secretKeyRef"]["key"]
        for each in only(pod)["env"]
        if each["name"].startswith("TW_")
    }


@every_mode
def test_checkpoints_go_into_the_bucket_where_the_values_say(values: str) -> None:
    for said, wanted in (("false", None), ("true", True)):
        options = training_parser().parse_args(
            words(values, f"training.checkpointsInBucket={said}")
        )
        assert options.checkpoints_in_bucket is wanted


def test_workers_have_the_keys_of_the_bucket_and_the_way_to_it_only_where_their_state_goes_there() -> (
    None
):
    kept = "training.checkpointsInBucket=true"
    found = pods(render(RAY, kept))
    assert told_of_bucket(found["ray-worker/RayJob"]) == told_of_bucket(found["training/RayJob"])
    assert bucket_location(told_of_bucket(found["ray-worker/RayJob"])) is not None
    assert {} in policies(RAY, kept)["ray-worker"]["egress"]
    assert not told_of_bucket(pods(render(RAY))["ray-worker/RayJob"])
    assert {} not in policies(RAY)["ray-worker"]["egress"]
    assert not told_of_bucket(found["ray-submitter/RayJob"])
    evaluated = policies(*EVALUATION, "ray.mode=kuberay", kept)
    assert "s3" in peers(evaluated["ray-worker"]["egress"], "to")
    assert "ray-worker" in peers(evaluated["s3"]["ingress"], "from")
    assert "ray-worker" not in peers(
        policies(*EVALUATION, "ray.mode=kuberay")["s3"]["ingress"], "from"
    )


@every_mode
def test_a_pod_that_is_taken_away_has_the_time_that_the_values_give_it(values: str) -> None:
    found = pods(render(values, "training.noticeSeconds=90"))
    pod = found["training/CronJob" if values == LOCAL else "ray-worker/RayJob"]
    assert pod["spec"]["terminationGracePeriodSeconds"] == (90 if values == LOCAL else 105)
    if values == RAY:
        drains = {"name": "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S", "value": "90"}
        assert drains in only(pod)["env"]


@every_mode
def test_training_understands_where_the_bucket_is(values: str) -> None:
    place = bucket_location(told_of_bucket(pods(render(values))[LOOP_PODS[values]]))
    assert place is not None
    assert (place.access_key, place.secret_key, place.secure) == (
        "access-key",
        "secret-key",
        values == RAY,
    )
    assert place.endpoint == ("s3.stores:8333" if values == RAY else "s3:8333")


@every_mode
def test_models_and_loop_lie_at_the_same_places_for_everybody_and_the_gateway_only_reads(
    values: str,
) -> None:
    found = pods(render(values))
    loop = mounts(found[LOOP_PODS[values]])
    assert {place: writes for place, (_, writes) in loop.items()} == {
        "/models": True,
        "/loop": True,
    }
    assert mounts(found["gateway/Deployment"]) == {"/loop": (loop["/loop"][0], False)}
    for reader in ("generator", "session", "predictor"):
        assert mounts(found[f"{reader}/Deployment"]) == {"/models": (loop["/models"][0], False)}


def test_what_answers_first_lies_under_the_name_of_its_version() -> None:
    """By which the registry finds it, and a manifest names its parents."""
    objects = render(*EVALUATION)
    seeds = [
        c
        for pod in pods(objects).values()
        for c in pod["spec"].get("initContainers", ())
        if c["name"] == "seed"
    ]
    assert seeds
    assert all('"/models/nano-0"' in seed["args"][0] for seed in seeds)
    environment = {
        each["name"]: each.get("value")
        for each in only(pods(objects)["generator/Deployment"])["env"]
    }
    assert environment["TW_GENERATOR_STABLE_DIRECTORY"] == "/models/nano-0"


def test_a_turn_in_one_pod_is_taken_up_but_not_while_another_runs() -> None:
    (cron,) = of_kind(render(LOCAL), "CronJob")
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


def test_a_launcher_understands_its_words_and_alone_may_speak_to_the_api_server() -> None:
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


def test_a_launchers_rights_are_what_it_does() -> None:
    (role,) = of_kind(render(RAY), "Role")
    rights = {
        (rule["resources"][0], verb, *rule.get("resourceNames", ()))
        for rule in role["rules"]
        for verb in rule["verbs"]
    }
    assert rights == {
        ("rayjobs", "create"),
        ("rayjobs", "get", "tw-thumbwheel-turn"),
        ("rayjobs", "delete", "tw-thumbwheel-turn"),
        ("rayclusters", "get"),
        ("pods", "list"),
        ("events", "list"),
    }


def test_a_ray_job_is_as_kuberay_was_seen_to_need_it() -> None:
    spec = ray_job(render(RAY))["spec"]
    assert (spec["submissionMode"], spec["submitterConfig"]) == ("K8sJobMode", {"backoffLimit": 0})
    assert (spec["shutdownAfterJobFinishes"], spec["backoffLimit"]) == (True, 2)
    cluster = spec["rayClusterSpec"]
    head, (workers,) = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert all(
        isinstance(each, str)
        for group in (head, workers)
        for each in group["rayStartParams"].values()
    )
    for group in (head, workers):
        container = only(group["template"])
        assert {"httpGet"} == {
            key for key in container["readinessProbe"] if key in ("exec", "httpGet")
        }
        assert {"name": "RAY_AUTH_MODE", "value": "disabled"} in container["env"]
    assert only(workers["template"])["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert workers["template"]["spec"]["nodeSelector"] == {"pool": "gpu"}
    assert "securityContext" in only(spec["submitterPodTemplate"])
    assert {volume["name"] for volume in spec["submitterPodTemplate"]["spec"]["volumes"]} == {"tmp"}


def test_the_version_of_ray_is_that_of_the_image() -> None:
    locked = re.findall(r"^ray==(\S+)", (ROOT / "locks" / "training.txt").read_text(), re.MULTILINE)
    assert [ray_job(render(RAY))["spec"]["rayClusterSpec"]["rayVersion"]] == locked


def test_workers_come_and_go_with_the_autoscaler_and_stay_without() -> None:
    def group(*sets: str) -> tuple[Any, ...]:
        cluster = ray_job(render(RAY, *sets))["spec"]["rayClusterSpec"]
        (workers,) = cluster["workerGroupSpecs"]
        sizes = tuple(workers[name] for name in ("replicas", "minReplicas", "maxReplicas"))
        return (*sizes, cluster.get("enableInTreeAutoscaling", False))

    assert group() == (0, 0, 4, True)
    assert group("ray.autoscaling.enabled=false") == (4, 4, 4, False)


def test_the_head_has_a_token_only_where_it_asks_for_pods() -> None:
    fixed = pods(render(RAY, "ray.autoscaling.enabled=false"))["training/RayJob"]["spec"]
    assert (fixed["automountServiceAccountToken"], fixed["serviceAccountName"]) == (
        False,
        "tw-thumbwheel",
    )


def test_a_queue_is_named_on_what_kueue_admits() -> None:
    label = "kueue.x-k8s.io/queue-name"
    queued = ray_job(render(RAY, "ray.autoscaling.enabled=false", "ray.queueName=night"))
    assert queued["metadata"]["labels"][label] == "night"
    (cron,) = of_kind(render(LOCAL, "ray.queueName=night"), "CronJob")
    assert cron["spec"]["jobTemplate"]["metadata"]["labels"][label] == "night"
    assert label not in ray_job(render(RAY))["metadata"]["labels"]


def test_of_rays_pods_only_the_head_reaches_the_services() -> None:
    found = policies(RAY)
    assert peers(found["training"]["ingress"], "from") == {
        "training",
        "ray-worker",
        "ray-submitter",
        "kuberay-operator",
    }
    assert {"feedback", "generator", "training", "ray-worker"} == peers(
        found["training"]["egress"], "to"
    )
    for way, key in (("ingress", "from"), ("egress", "to")):
        assert peers(found["ray-worker"][way], key) == {"training", "ray-worker"}
    assert peers(found["ray-submitter"]["egress"], "to") == {"training"}
    assert not found["ray-submitter"].get("ingress")


def test_the_launcher_reaches_the_api_server_and_nothing_else() -> None:
    (rule,) = policies(RAY)["launcher"]["egress"]
    assert [port["port"] for port in rule["ports"]] == [443, 6443]
    said = policies(
        RAY, "networkPolicies.apiServer[0].ports[0].port=6443", "ray.autoscaling.enabled=false"
    )
    assert [port["port"] for port in said["launcher"]["egress"][0]["ports"]] == [6443]
    assert {"to", "ports"} >= {key for rule in said["training"]["egress"] for key in rule}


def test_with_the_stores_of_an_evaluation_a_turn_reaches_s3_and_not_the_world() -> None:
    found = policies(*EVALUATION)
    assert peers(found["training"]["egress"], "to") == {"feedback", "generator", "s3"}
    assert {} not in found["training"]["egress"]
    assert "training" in peers(found["s3"]["ingress"], "from")
    assert "training" not in peers(found["kafka"]["ingress"], "from")


def test_names_are_as_short_as_those_who_make_more_of_them_want() -> None:
    objects = render(RAY, release="a-name-as-long-as-helm-lets-anybody-choose-one-53-lon")
    assert len(ray_job(objects)["metadata"]["name"]) <= 47
    assert all(len(each["metadata"]["name"]) <= 52 for each in of_kind(objects, "CronJob"))


def test_without_training_there_is_none_of_it() -> None:
    objects = render("existing-values.yaml")
    mine = {"training", "launcher", "loop", "ray-worker", "ray-submitter"}
    assert not [each for each in objects if component(each) in mine]
    volumes = {
        volume["name"]: volume for volume in pods(objects)["gateway/Deployment"]["spec"]["volumes"]
    }
    assert volumes["loop"] == {"name": "loop", "emptyDir": {}}
