"""Model versions in the claim of the test release, and promotion as by the training loop."""

import base64
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
# Signs as an operator with the key on standard input, for more than the life of a token.
PROMOTE = """
import pathlib, sys, grpc
from google.protobuf.duration_pb2 import Duration
from thumbwheel.generator.v1 import generator_pb2 as pb, generator_pb2_grpc
from services.chassis.identity import Caller
from services.chassis.service_identity import IDENTITY_KEY, TokenSigner
version, directory = sys.argv[1:]
key = pathlib.Path("/tmp/operator.key")
key.write_text(sys.stdin.read())
signer = TokenSigner("operator", key)
key.unlink()
def signed(method):
    path = "/thumbwheel.generator.v1.RolloutService/" + method
    return [(IDENTITY_KEY, signer.token(path, Caller()))]
with grpc.insecure_channel("127.0.0.1:50055") as channel:
    rollout = generator_pb2_grpc.RolloutServiceStub(channel)
    view = rollout.GetRollout(
        pb.GetRolloutRequest(), timeout=20, metadata=signed("GetRollout")
    )
    if view.stable.version != version:
        lease = Duration(seconds=120)
        canary = pb.StartCanaryRequest(
            version=version, directory=directory, share=0.1, lease=lease
        )
        rollout.StartCanary(canary, timeout=120, metadata=signed("StartCanary"))
        promotion = pb.PromoteCanaryRequest(version=version, reason="a test")
        rollout.PromoteCanary(promotion, timeout=20, metadata=signed("PromoteCanary"))
"""


def install_endless(deployed: Deployed) -> None:
    """Copy nano without an end token, so that answers have the maximum length."""
    if not (claim_folder(deployed, f"{deployed.name}-models") / ENDLESS).exists():
        make_endless(install_copy(deployed, ENDLESS))


def install_copy(deployed: Deployed, version: str, source: Path = NANO) -> Path:
    """Copy a model as another version into the claim; return the folder on this machine."""
    folder = claim_folder(deployed, f"{deployed.name}-models") / version
    # With the permissions of new files: pods have another user than the owner of a cache.
    shutil.copytree(source, folder, copy_function=shutil.copyfile)
    write_manifest(folder)
    return folder


def make_endless(folder: Path) -> None:
    """Remove the end token of a model, so that answers have the maximum length."""
    settings = folder / "generation_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "eos_token_id": NEVER}))
    write_manifest(folder)


def write_manifest(folder: Path) -> None:
    """Write the name of the folder and the hashes of its files into the manifest."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["version"] = folder.name
    for name in manifest["files"]:
        manifest["files"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


def claim_folder(deployed: Deployed, claim: str) -> Path:
    """Return the folder of the claim's volume on this machine."""
    volume = deployed.kubectl("get", "pvc", claim, "-o", "jsonpath={.spec.volumeName}").strip()
    where = deployed.kubectl("get", "pv", volume, "-o", "jsonpath={.spec.local.path}")
    return Path(where.strip())


def promote(deployed: Deployed, version: str, folder: str = "") -> None:
    """Promote a version. A starting canary is loaded before the call returns."""
    key = deployed.kubectl(
        "get", "secret", f"{deployed.name}-identity", "-o", "jsonpath={.data.operator\\.key}"
    )
    folder = f"/models/{folder or version}"
    deployed.python(
        "generator", "-c", PROMOTE, version, folder, stdin=base64.b64decode(key).decode()
    )
