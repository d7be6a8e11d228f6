"""Model versions in the claim of the test release, and promotion as by the training loop."""

import hashlib
import json
import shutil
from pathlib import Path

from infra.install.environment import ROOT
from tests.infra.run.deploy.deployed import Deployed

NANO = ROOT / "models" / "nano"
NANO_VERSION = json.loads((NANO / "manifest.json").read_text())["version"]
ENDLESS = "endless-1"
# A token that the model never generates.
NEVER = 0
PROMOTE = """
import sys, grpc
from google.protobuf.duration_pb2 import Duration
from thumbwheel.generator.v1 import generator_pb2 as pb, generator_pb2_grpc
version, directory = sys.argv[1:]
with grpc.insecure_channel("127.0.0.1:50055") as channel:
    rollout = generator_pb2_grpc.RolloutServiceStub(channel)
    if rollout.GetRollout(pb.GetRolloutRequest(), timeout=20).stable.version != version:
        lease = Duration(seconds=120)
        canary = pb.StartCanaryRequest(
            version=version, directory=directory, share=0.1, lease=lease
        )
        rollout.StartCanary(canary, timeout=120)
        rollout.PromoteCanary(pb.PromoteCanaryRequest(version=version, reason="a test"), timeout=20)
"""


def install_endless(deployed: Deployed) -> None:
    """Copy nano without an end token, so that answers have the maximum length."""
    folder = claim_folder(deployed, f"{deployed.name}-models") / ENDLESS
    if folder.exists():
        return
    shutil.copytree(NANO, folder)
    settings = folder / "generation_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "eos_token_id": NEVER}))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["version"] = ENDLESS
    manifest["files"][settings.name] = hashlib.sha256(settings.read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


def claim_folder(deployed: Deployed, claim: str) -> Path:
    """Return the folder of the claim's volume on this machine."""
    volume = deployed.kubectl("get", "pvc", claim, "-o", "jsonpath={.spec.volumeName}").strip()
    where = deployed.kubectl("get", "pv", volume, "-o", "jsonpath={.spec.local.path}")
    return Path(where.strip())


def promote(deployed: Deployed, version: str, folder: str = "") -> None:
    """Promote a version. A starting canary is loaded before the call returns."""
    deployed.python("generator", "-c", PROMOTE, version, f"/models/{folder or version}")
