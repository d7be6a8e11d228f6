"""Containerfile and .dockerignore for users of Docker or Podman.

Both files are rendered from the catalogue: `docker build --target services .` builds an image.
`make check` compares both files with the catalogue.
"""

import json
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path

from infra.images import interpreter, packages
from infra.images.build import (
    APP,
    ENVIRONMENT,
    JARS,
    config_of,
    labels_of,
    locks_of,
    script,
    trust_variables,
)
from infra.images.catalogue import ROOT, Catalogue, Image
from infra.servers.jars import PLUGIN

HEAD = (
    "# Generated from infra/images/images.toml by `python -m infra.images containerfile`. "
    "Do not edit."
)
COMPILE = "python3 -m compileall -q -f --invalidation-mode unchecked-hash"


def render(catalogue: Catalogue) -> Mapping[Path, str]:
    """Return the texts of the rendered files by path."""
    user = interpreter.USER
    parts = [
        [HEAD, f"ARG PYTHON={catalogue.python}"],
        [
            "FROM ${PYTHON} AS base",
            f"RUN groupadd --gid {user} app && useradd --uid {user} --gid app "
            "--home-dir /tmp --no-create-home app",
            *[f"ENV {name}={value}" for name, value in ENVIRONMENT.items()],
            f"WORKDIR {APP}",
            'ENTRYPOINT ["python3", "-m"]',
        ],
    ]
    wanted: set[Path] = set()
    for image in catalogue.images.values():
        parts.extend(_stages(image, catalogue))
        wanted.update(locks_of(image), image.paths)
    containerfile = "\n\n".join("\n".join(part) for part in parts)
    # Exclude everything, then include what the stages copy.
    ignored = [HEAD, "*", *[f"!{path}" for path in sorted(wanted)], "**/__pycache__"]
    return {
        ROOT / "Containerfile": f"{containerfile}\n",
        ROOT / ".dockerignore": "\n".join(ignored) + "\n",
    }


def _stages(image: Image, catalogue: Catalogue) -> Iterator[list[str]]:
    left_out = catalogue.omitted_patterns(image)
    everywhere = [pattern.removeprefix("**/") for pattern in left_out if pattern.startswith("**/")]
    places = [f"{packages.SITE}/{pattern}" for pattern in left_out if not pattern.startswith("**/")]
    yield [
        f"FROM base AS {image.name}-packages",
        f"COPY {image.lock} /tmp/lock.txt",
        "RUN python3 -m pip install --no-cache-dir --no-compile --no-deps --require-hashes "
        f"--target {packages.SITE} -r /tmp/lock.txt \\",
        *[
            f"    && find {packages.SITE} -type d -name {name} -prune -exec rm -rf {{}} + \\"
            for name in everywhere
        ],
        f"    && rm -rf {' '.join(places)} \\",
        f"    && {{ {COMPILE} {packages.SITE} || true; }}",
    ]
    if image.jars:
        yield [
            f"FROM {catalogue.maven} AS {image.name}-jars",
            f"COPY {image.jars} /tmp/locks",
            f"RUN mvn -q -B -f /tmp/locks/pom.xml {PLUGIN} -DoutputDirectory={JARS} \\",
            f"    && cd {JARS} && sha256sum --check --strict /tmp/locks/jars.sha256",
        ]
    scripts = []
    for name, function in image.scripts.items():
        path = f"{interpreter.PREFIX}/bin/{name}"
        lines = " ".join(map(shlex.quote, script(function).splitlines()))
        scripts.append(f"RUN printf '%s\\n' {lines} > {path} && chmod 755 {path}")
    config = config_of(image)
    yield [
        f"# {image.about}",
        f"FROM base AS {image.name}",
        *[f"ENV {name}={value}" for name, value in trust_variables(image).items()],
        f"COPY --from={image.name}-packages {packages.SITE} {packages.SITE}",
        *([f"COPY --from={image.name}-jars {JARS} {JARS}"] if image.jars else []),
        *[f"COPY {path} {APP}/{path}" for path in image.paths],
        *scripts,
        f"RUN {COMPILE} {' '.join(sorted({f'{APP}/{path.parts[0]}' for path in image.paths}))}",
        f"USER {config['User']}",
        *[f"LABEL {name}={json.dumps(value)}" for name, value in labels_of(image).items()],
        f"CMD {json.dumps(config['Cmd'])}",
    ]
