"""Versions in the claim of models under test, and which one answers: put there and promoted as
training's loop does it.
"""

import hashlib
import json
import shutil
from pathlib import Path

from infra.install.environment import ROOT
from tests.infra.deploy.deployed import Deployed

NANO = ROOT / "models" / "nano"
NANO_VERSION = json.loads((NANO / "manifest.json").read_text())["version"]
ENDLESS = "endless-1"
# What the model never says.
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
        rollout.StartCanary(pb.StartCanaryRequest(version=version, directory=directory, share=0.1, lease=lease), timeout=120)
        rollout.PromoteCanary(pb.PromoteCanaryRequest(version=version, reason="a test"), timeout=20)
"""


def put_endless(deployed: Deployed) -> None:
    """Nano that never comes to an end by itself, so that its answers are as long as they may be."""
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
    """Where its volume lies on this machine."""
    volume = deployed.kubectl("get", "pvc", claim, "-o", "jsonpath={.spec.volumeName}").strip()
    where = deployed.kubectl("get", "pv", volume, "-o", "jsonpath={.spec.local.path}")
    return Path(where.strip())


def promote(deployed: Deployed, version: str, folder: str = "") -> None:
    """It answers everybody from now on. A canary that starts is loaded when the call returns."""
    deployed.python("generator", "-c", PROMOTE, version, f"/models/{folder or version}")
