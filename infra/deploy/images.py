"""Load the images of this clone into the containerd of the cluster.

Images are built from the clone and loaded only if they have changed.
"""

import json
from collections.abc import Callable, Collection, Sequence

from infra.cluster.node import import_command
from infra.deploy.inside import Inside
from infra.images.archive import Described, write_archive
from infra.images.build import layered
from infra.images.catalogue import read_catalogue

REPOSITORY = "localhost/thumbwheel"
LOADED = "loaded-images.json"
TAG_DIGITS = 16


def bring_images(
    inside: Inside, names: Sequence[str], say: Callable[[str], None], bare: Collection[str] = ()
) -> dict[str, str]:
    """Build images and load those that are new to this cluster.

    Args:
        bare: names of images to build without their packages.

    Returns the tags by name. A tag is derived from the digest of the image.
    """
    catalogue, note = read_catalogue(), inside.layout.state / LOADED
    loaded = json.loads(note.read_text()) if note.exists() else {}
    for name in names:
        say(f"building the image {name}")
        with layered(catalogue.images[name], catalogue, say, bare=name in bare) as image:
            tag = image.digest.removeprefix("sha256:")[:TAG_DIGITS]
            if loaded.get(name) != tag:
                _load(inside, image, f"{REPOSITORY}-{name}:{tag}", say)
                loaded[name] = tag
                note.write_text(json.dumps(loaded))
    return {name: loaded[name] for name in names}


def _load(inside: Inside, image: Described, reference: str, say: Callable[[str], None]) -> None:
    archive = inside.layout.state / "image.tar"
    write_archive(archive, reference, image)
    say(f"loading the image ({archive.stat().st_size / 1e6:.0f} MB)")
    inside.run(*import_command(archive))
    archive.unlink()
