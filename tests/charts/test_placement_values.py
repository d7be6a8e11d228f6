"""Affinity and priority class of pods that only some values files have."""

from tests.charts.rendering import pods, render

TERM = """{"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
  "nodeSelectorTerms": [{"matchExpressions": [{"key": "pool", "operator": "Exists"}]}]}}}"""


def test_pods_of_ray_have_the_affinity_of_head_and_workers():
    found = pods(
        render(
            "ray-values.yaml",
            json_sets=(f"ray.head.affinity={TERM}", f"ray.workers.affinity={TERM}"),
        )
    )
    runs = [pod for name, pod in found.items() if name.endswith(("/RayJob", "training/CronJob"))]
    assert len(runs) >= 3
    assert all("nodeAffinity" in pod["spec"]["affinity"] for pod in runs)


def test_evaluation_stores_have_affinity_and_priority_class():
    found = pods(
        render(
            "evaluation-values.yaml",
            "evaluation.priorityClassName=low",
            json_sets=(f"evaluation.affinity={TERM}",),
        )
    )
    stores = [
        found[f"{name}/StatefulSet"]["spec"] for name in ("postgres", "kafka", "s3", "valkey")
    ]
    assert [spec["priorityClassName"] for spec in stores] == ["low"] * 4
    assert all("nodeAffinity" in spec["affinity"] for spec in stores)
