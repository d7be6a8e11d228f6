"""The whole loop as a RayJob, on a model in the form of Llama 3 whose rollouts real vLLM samples.

vLLM's CPU build is the model server in the worker's pod. Users are answered by the predictor; pods
of versions with vLLM are tried in tests/infra/simulate/kserve/test_vllm_pods.py.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from infra.machine.cluster.errors import ClusterError
from infra.run.deploy.training import mounted_packages
from tests.infra.run.deploy import server_rollouts, vllm_programs
from tests.infra.run.deploy.clusters import deployed_cluster
from tests.infra.run.deploy.deployed import Deployed, until
from tests.infra.run.deploy.loop_runs import TRAINING, LoopRuns
from tests.infra.run.deploy.models import claim_folder, install_copy, promote
from tests.infra.run.deploy.raters import fill_bucket, keys, rate_while
from tests.infra.run.deploy.server_rollouts import MISMATCH_NATS, mismatches, run_folder
from tests.llama_loop import ARGUMENTS, UPDATES
from training.recipes.nano_world.bases import BASES
from training.recipes.nano_world.train_base import cached_base

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.vllm,
    pytest.mark.long,
    pytest.mark.slow,
    pytest.mark.timeout(3600),
]
BASE = BASES["llama"]
STORE = "models"
# 500 thumbs left the reward model within noise of a coin.
THUMBS = 1500
RUN_SECONDS = 2700.0
WORKER = "ray.io/node-type=worker"
# The highest use of memory of a container since its start, in bytes: cgroup v2, or v1.
PEAK = """
from pathlib import Path
folder = Path("/sys/fs/cgroup")
peak = folder / "memory.peak"
print((peak if peak.exists() else folder / "memory/memory.max_usage_in_bytes").read_text())
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopRuns]:
    """Separate cluster with the KubeRay operator and vLLM in a claim, that serves the model."""
    model = cached_base(BASE, "", lambda progress: None)
    state = tmp_path_factory.mktemp("vllm") / "cluster"
    words = ("--training", "kuberay")
    with deployed_cluster(state, "vLLM samples for no RayJob", *words, seconds=1800) as deployed:
        programs = deployed.shell.layout.state / "vllm-programs"
        vllm_programs.prepare(deployed.shell, programs, deployed.namespace)
        if not (claim_folder(deployed, f"{deployed.name}-models") / BASE.version).exists():
            install_copy(deployed, BASE.version, model)
        promote(deployed, BASE.version)
        deployed.install(values(deployed))
        yield LoopRuns(deployed)


def values(deployed: Deployed) -> dict[str, Any]:
    rollouts = {
        "engine": "vllm",
        "dtype": "float32",
        "python": f"{vllm_programs.PROGRAMS_PLACE}/python",
        "environment": {"existingClaim": vllm_programs.ENVIRONMENT},
        "arguments": ["--enforce-eager"],
    }
    found = server_rollouts.values(deployed, BASE.version, rollouts, ARGUMENTS)
    training = found["training"]
    training["extraVolumes"] += vllm_programs.claims(vllm_programs.PROGRAMS)
    place = (vllm_programs.PROGRAMS, vllm_programs.PROGRAMS_PLACE)
    training["extraVolumeMounts"] += vllm_programs.mounts([place])
    training["canary"] |= {"seconds": 600}
    resources = {"requests": {"cpu": "100m", "memory": "512Mi"}, "limits": {"memory": "2Gi"}}
    found["models"] |= {
        "store": f"s3://thumbwheel/{STORE}",
        "import": {"resources": resources, **mounted_packages()},
    }
    # All users get the promoted version.
    found["services"] = {"generator": {"settings": {"watch_share": 0}}}
    return found


def test_thumbs_lead_to_a_version_that_vllm_sampled(runs: LoopRuns) -> None:
    deployed, run = runs.deployed, "turn-1"
    people = keys(deployed)
    fill_bucket(deployed, people, THUMBS)
    runs.start_run(run)
    until("the canary begins", lambda: at_canary(runs, run), RUN_SECONDS)
    (worker,) = deployed.objects("pods", "--selector", WORKER)
    print(f"\npeak memory of the worker: {peak_memory(deployed, worker) / 1e9:.2f} GB")
    trial = rate_while(deployed, people, lambda: not runs.ended(run), RUN_SECONDS)
    assert runs.wait_ended(run, 60) == "Complete", runs.log(run)
    status = runs.status()
    print(json.dumps(status, indent=1))
    version, steps = status["run"], {step["name"]: step["state"] for step in status["steps"]}
    assert [steps[step] for step in (*TRAINING, "evaluation", "gate")] == ["done"] * 7

    folder = run_folder(deployed, version)
    config = json.loads((folder / "config.json").read_text())
    assert config["ppo"]["rollout_server"]["engine"] == "vllm"
    measured = mismatches(folder)
    print(f"mismatch {min(measured):.2g} to {max(measured):.2g} nats per token")
    assert len(measured) == UPDATES
    # Above 0: another program has computed the log-probs.
    assert all(0 < mismatch <= MISMATCH_NATS for mismatch in measured)

    served = claim_folder(deployed, f"{deployed.name}-models") / version
    files = json.loads((served / "manifest.json").read_text())["files"]
    stored = deployed.bucket(f"{STORE}/{version}/")
    assert stored == {f"{STORE}/{version}/{name}" for name in ("manifest.json", *files)}

    assert (version, status["result"]) == ("auto-1", "promoted")
    assert trial.by_version.get(version, 0) > 0
    assert runs.served_version() == version


def at_canary(runs: LoopRuns, run: str) -> bool:
    try:
        if ended := runs.ended(run):
            pytest.fail(f"{ended} before the canary: {json.dumps(runs.status(), indent=1)}")
        return bool(runs.status().get("step") == "canary")
    except ClusterError:  # the API server is busy
        return False


def peak_memory(deployed: Deployed, pod: Mapping[str, Any]) -> int:
    """Return the highest use of memory by Ray, trainer and vLLM in the worker's pod, in bytes."""
    where = ("exec", pod["metadata"]["name"], "--container", "ray-worker", "--", "python3", "-c")
    return int(deployed.kubectl(*where, PEAK))
