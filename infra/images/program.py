"""Image of a single static program that runs as an unprivileged user."""

import tempfile
from pathlib import Path

from infra.images.archive import describe, write_archive
from infra.images.layer import LayerWriter

UNPRIVILEGED = "65532:65532"


def write_program_image(program: Path, reference: str, archive: Path) -> None:
    """Write an image archive with the program at the root."""
    with tempfile.TemporaryDirectory() as folder:
        with LayerWriter(Path(folder) / "layer.tar.gz") as writer:
            writer.file(program, f"/{program.name}")
        config = {"User": UNPRIVILEGED, "Entrypoint": [f"/{program.name}"], "WorkingDir": "/"}
        write_archive(archive, reference, describe([writer.layer], config))
