"""Values for usual cases: the memory of serving and training is planned."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from tests.charts.rendering import component, of_kind, pods, ray_job, refusal, render
from tests.support.errors import refused
from training.__main__ import parser
from training.errors import ConfigError
from training.model.lora import LoraConfig
from training.planning.accelerators import GIB, accelerator_named
from training.planning.collected import ASSUMED
from training.planning.hardware import Hardware
from training.planning.serving import ServingPlan, plan_serving
from training.recipes.auto.recipe import derive
from training.recipes.open_models.recipes import shape
from training.recipes.recipe import MAX_HOURS, Plan

SINGLE, EIGHT, CPU = "single-gpu-values.yaml", "eight-gpus-values.yaml", "cpu-values.yaml"
FOUR, EIGHT_BILLION = "qwen3-4b", "qwen3-8b"
SHARED = "serving.vllm.sharedBase.enabled=true,serving.vllm.sharedBase.maxRank="


def arguments_of(values: str) -> dict[str, str]:
    """Return the arguments of vLLM by name."""
    (runtime,) = of_kind(render(values), "ServingRuntime")
    words = runtime["spec"]["containers"][0]["args"]
    return dict(word.removeprefix("--").split("=", 1) for word in words if "=" in word)


def served(values: str, model: str, gpu_gib: float) -> ServingPlan:
    given = arguments_of(values)
    fraction, context = float(given["gpu-memory-utilization"]), int(given["max-model-len"])
    return plan_serving(shape(model), gpu_gib, fraction, context)


def trained(values: str, model: str, share: float = 1.0) -> Any:
    """Plan the run of these values; raise ConfigError with the reason if it does not fit.

    Args:
        share: part of the memory of each GPU.
    """
    options = parser().parse_args(ray_job(render(values))["spec"]["entrypoint"].split()[3:])
    assert (options.recipe, options.gpus_per_worker) == ("auto", 1)
    card = accelerator_named(options.accelerator)
    workers, _ = options.workers
    hardware = Hardware(replace(card, memory_gib=card.memory_gib * share), workers)
    plan = Plan(
        "auto-1",
        Path("runs"),
        Path(model),
        hardware,
        ASSUMED,
        assignments=tuple(options.set),
        max_hours=MAX_HOURS,
    )
    return derive(plan, shape(model))


def test_one_gpu_of_24_gb_serves_two_versions_and_another_one_trains() -> None:
    plan = served(SINGLE, FOUR, 24)
    assert plan.cache_tokens >= 8192
    assert 2 * plan.limit_bytes <= 0.95 * 24 * GIB
    assert accelerator_named("l4").memory_gib <= 24
    assert trained(SINGLE, FOUR).text()


def test_shared_base_on_one_gpu_leaves_more_room_for_contexts() -> None:
    two = served(SINGLE, FOUR, 24)
    one = plan_serving(shape(FOUR), 24, 0.9, 8192, adapters=2, adapter_rank=128)
    assert one.cache_tokens > 6 * two.cache_tokens
    shared = "serving.vllm.sharedBase.enabled=true,serving.vllm.sharedBase.maxRank=128"
    values = f"{shared},serving.vllm.podsPerGpu=1,serving.vllm.args={{--max-model-len=8192}}"
    (runtime,) = of_kind(render(SINGLE, values), "ServingRuntime")
    assert "--max-lora-rank=128" in runtime["spec"]["containers"][0]["args"]


def test_the_page_has_values_for_a_shared_base_on_one_gpu() -> None:
    page = (Path(__file__).parents[2] / "docs" / "kubernetes.md").read_text()
    _, _, rest = page.partition("With `single-gpu-values.yaml`, one pod")
    values = yaml.safe_load(rest.split("```")[1].removeprefix("yaml"))
    vllm, training = values["serving"]["vllm"], values["training"]
    sets = [f"serving.vllm.{name}={json.dumps(value)}" for name, value in vllm.items()]
    sets.append(f"training.extraArgs={json.dumps(training['extraArgs'])}")
    objects = render(SINGLE, json_sets=tuple(sets))
    (runtime,) = of_kind(objects, "ServingRuntime")
    words = runtime["spec"]["containers"][0]["args"]
    assert {"--enable-lora", "--max-lora-rank=128", "--max-model-len=8192"} <= {*words}
    command = ray_job(objects)["spec"]["entrypoint"]
    options = parser().parse_args(command.split()[3:])
    assert options.set == training["extraArgs"][1::2]


def test_shared_base_takes_adapters_of_the_default_rank_of_training() -> None:
    """The chart repeats the default of `served_rank`, because Helm cannot read it."""
    default = LoraConfig().served_rank
    render(SINGLE, f"{SHARED}{default}")
    assert f"up to rank {default};" in refusal(SINGLE, "gitops=true", f"{SHARED}{default // 2}")


def test_shared_base_takes_adapters_of_the_assigned_rank_of_training() -> None:
    assigned = "training.extraArgs={--set,ppo.lora.served_rank=%d}"
    render(SINGLE, f"{SHARED}128", assigned % 128)
    render(SINGLE, f"{SHARED}32", assigned % 32)


def test_training_beside_two_versions_on_one_gpu_is_refused_with_the_reason() -> None:
    with refused(ConfigError) as caught:
        trained(SINGLE, FOUR, share=0.1)
    assert "weights" in caught.value.text


def test_eight_gpus_of_80_gb() -> None:
    plan = served(EIGHT, EIGHT_BILLION, 80)
    assert plan.cache_tokens >= 16 * 16_384
    objects = render(EIGHT)
    workers = ray_job(objects)["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]
    count = workers["replicas"]
    assert trained(EIGHT, EIGHT_BILLION).text()
    # Two versions with two pods each, and the workers.
    assert 2 * 2 + count == 8


def test_cpus_hold_small_beside_its_candidate() -> None:
    objects = render(CPU)
    predictor = pods(objects)["predictor/Deployment"]["spec"]["containers"][0]
    assert predictor["resources"]["limits"]["memory"] == "16Gi"
    (run,) = pods(objects)["training/CronJob"]["spec"]["containers"]
    options = parser().parse_args(run["args"][1:])
    assert (options.recipe, run["resources"]["limits"]["memory"]) == ("small", "12Gi")


def test_an_evaluation_requests_less_than_two_cpus_also_during_an_upgrade() -> None:
    """The Job of the model runs at the installation, and additional pods at an upgrade."""
    installation = upgrade = 0.0
    for name, pod in pods(render("evaluation-values.yaml")).items():
        requested = sum(
            cores(item["resources"]["requests"]["cpu"]) for item in pod["spec"]["containers"]
        )
        installation += requested
        if not name.endswith("/Job"):
            upgrade += requested * (2 if name.endswith("/Deployment") else 1)
    assert 1 < installation < 2
    assert 1 < upgrade < 2


def cores(amount: str) -> float:
    return float(amount.removesuffix("m")) / 1000 if amount.endswith("m") else float(amount)


def test_one_node_has_one_pod_of_each_service_and_generated_keys() -> None:
    objects = render("one-node-values.yaml")
    assert {item["spec"]["replicas"] for item in of_kind(objects, "Deployment", "StatefulSet")} == {
        1
    }
    assert "tw-thumbwheel-keys" in {item["metadata"]["name"] for item in of_kind(objects, "Secret")}


def test_vllm_scales_to_four_pods_by_waiting_requests() -> None:
    (template,) = [
        json.loads(item["data"]["inference-service.json"])
        for item in of_kind(render("gpu-values.yaml"), "ConfigMap")
        if "inference-service.json" in item["data"]
    ]
    predictor = template["spec"]["predictor"]
    assert predictor["maxReplicas"] == 4
    (metric,) = predictor["autoScaling"]["metrics"]
    assert "num_requests_waiting" in metric["external"]["metric"]["query"]
    limits = predictor["model"]["resources"]["limits"]
    assert limits["nvidia.com/gpu"] == 1


def test_runs_of_ray_start_on_nights_before_weekdays_with_a_gpu_for_each_worker() -> None:
    objects = render("ray-values.yaml")
    (run,) = [item for item in of_kind(objects, "CronJob") if component(item) == "training"]
    assert run["spec"]["schedule"].endswith("* * 1-5")
    (group,) = ray_job(objects)["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    (worker,) = group["template"]["spec"]["containers"]
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == 1


def test_existing_values_generate_no_secret() -> None:
    assert of_kind(render("existing-values.yaml"), "Secret") == []


def test_gitops_values_name_images_of_services_by_digest() -> None:
    for name, pod in pods(render("gitops-values.yaml")).items():
        if name.endswith(("/Deployment", "/StatefulSet")):
            assert "@sha256:" in pod["spec"]["containers"][0]["image"]


def test_pods_of_eight_gpus_read_versions_from_the_object_store() -> None:
    objects = render(EIGHT)
    (template,) = [
        json.loads(item["data"]["inference-service.json"])
        for item in of_kind(objects, "ConfigMap")
        if "inference-service.json" in item["data"]
    ]
    assert template["spec"]["predictor"]["model"]["storageUri"].startswith("s3://")
    mounting = {
        name.split("/")[0]
        for name, pod in pods(objects).items()
        for volume in pod["spec"].get("volumes", ())
        if volume.get("persistentVolumeClaim", {}).get("claimName") == "models"
    }
    assert mounting == {"session", "generator", "model", "training", "ray-worker"}
