"""Our images in the cluster's containerd: built from the clone, loaded when they have changed."""

import json
from collections.abc import Callable, Sequence

from infra.cluster.node import IMAGES, import_command
from infra.deploy.inside import Inside
from infra.images.build import build_image
from infra.images.catalogue import read_catalogue

REPOSITORY = "localhost/thumbwheel"
LOADED = "loaded-images.json"


def bring_images(inside: Inside, names: Sequence[str], say: Callable[[str], None]) -> dict[str, str]:
    """Build them, load those that are new to this cluster. Their tags by name: each follows from what the image is."""
    catalogue, folder = read_catalogue(), inside.layout.state / "images"
    folder.mkdir(exist_ok=True)
    note = inside.layout.state / LOADED
    loaded = json.loads(note.read_text()) if note.exists() else {}
    for name in names:
        say(f"building the image {name}")
        reference, archive = f"{REPOSITORY}-{name}", folder / f"{name}.tar"
        digest = build_image(catalogue.images[name], catalogue, f"{reference}:new", archive, say)
        tag = digest.removeprefix("sha256:")[:16]
        if loaded.get(name) != tag:
            say(f"loading it ({archive.stat().st_size / 1e6:.0f} MB)")
            inside.run(*import_command(archive))
            inside.run(*IMAGES, "tag", "--force", f"{reference}:new", f"{reference}:{tag}")
            loaded[name] = tag
            note.write_text(json.dumps(loaded))
        archive.unlink()
    return {name: loaded[name] for name in names}
