"""Load the images of this clone into the containerd of the cluster.

Images are built from the clone and loaded only if they have changed.
"""

import json
from collections.abc import Callable, Collection, Sequence

from infra.machine.cluster.node import import_command
from infra.machine.images.archive import write_archive
from infra.machine.images.build import built_image
from infra.machine.images.catalogue import read_catalogue
from infra.run.deploy.cluster_shell import ClusterShell

REPOSITORY = "localhost/thumbwheel"
LOADED = "loaded-images.json"
TAG_DIGITS = 16


def load_images(
    shell: ClusterShell,
    names: Sequence[str],
    say: Callable[[str], None],
    bare: Collection[str] = (),
) -> dict[str, str]:
    """Build images and load those that are new to this cluster.

    Args:
        bare: names of images to build without their packages.

    Returns the tags by name. A tag is derived from the digest of the image.
    """
    catalogue, note = read_catalogue(), shell.layout.state / LOADED
    loaded = json.loads(note.read_text()) if note.exists() else {}
    for name in names:
        say(f"building the image {name}")
        with built_image(catalogue.images[name], catalogue, say, bare=name in bare) as image:
            tag = image.digest.removeprefix("sha256:")[:TAG_DIGITS]
            if loaded.get(name) != tag:
                archive = shell.layout.state / "image.tar"
                write_archive(archive, f"{REPOSITORY}-{name}:{tag}", image)
                say(f"loading the image ({archive.stat().st_size / 1e6:.0f} MB)")
                shell.run(*import_command(archive))
                archive.unlink()
                loaded[name] = tag
                note.write_text(json.dumps(loaded))
    return {name: loaded[name] for name in names}
