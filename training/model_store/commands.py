"""Commands `import`, which makes a version of a model, and `memory` of its server.

Modules with imports of seconds are imported on use.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from training.errors import ConfigError
from training.model.fields import HUB_ID, check_model_directory, read_object
from training.runtime.paths import read_file

if TYPE_CHECKING:
    from training.model_store.destination import Destination
    from training.model_store.source import Source

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

SCHEME, TOKEN_VARIABLE, TERMS = "s3://", "HF_TOKEN", ("gemma", "llama")


def describe(commands: Commands) -> None:
    """Add the commands to the command line."""
    _describe_memory(commands)
    command = commands.add_parser(
        "import",
        description="Objects are read and written with TW_TRAINING_S3_ENDPOINT, _ACCESS_KEY and "
        "_SECRET_KEY, or with the role of the environment (_CREDENTIALS=chain). The same command "
        "continues an interrupted import.",
    )
    command.add_argument(
        "source",
        metavar="SOURCE",
        help="directory, s3://BUCKET/PREFIX, or OWNER/NAME[@REVISION] of the hub",
    )
    command.add_argument(
        "--name", required=True, metavar="NAME", help="name of the version: a-z, 0-9, . _ -"
    )
    command.add_argument(
        "--to",
        required=True,
        metavar="DIR|s3://BUCKET/PREFIX",
        help="folder of versions; the version becomes a folder in it",
    )
    command.add_argument(
        "--accept-terms",
        action="append",
        choices=TERMS,
        default=[],
        help="accept the terms of use of a model family, after reading them",
    )
    command.add_argument(
        "--thinking",
        choices=("off", "on"),
        default="off",
        help="thoughts before answers, of models that can switch them, such as Qwen 3; users see "
        "them, and they use the tokens of the answer (default: off)",
    )
    command.add_argument(
        "--chat-template",
        type=Path,
        metavar="FILE",
        help="Jinja template in place of that of the model; base models such as GPT-2 have none",
    )
    command.add_argument(
        "--hub", default="", metavar="URL", help="hub (default: HF_ENDPOINT or that of the client)"
    )
    command.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help=f"token for gated and private models (default: {TOKEN_VARIABLE})",
    )
    command.add_argument(
        "--scratch",
        type=Path,
        metavar="DIR",
        help="with --to s3://: room for the largest file (default: a temporary folder)",
    )
    command.set_defaults(command=run)


def _describe_memory(commands: Commands) -> None:
    command = commands.add_parser("memory")
    command.add_argument("model", type=Path, metavar="MODEL", help="directory with config.json")
    command.add_argument(
        "--gpu-gib", type=float, required=True, metavar="X", help="memory of a GPU, such as 24"
    )
    command.add_argument(
        "--context", type=int, required=True, metavar="TOKENS", help="--max-model-len of vLLM"
    )
    command.add_argument(
        "--fraction",
        type=float,
        default=0.9,
        metavar="X",
        help="--gpu-memory-utilization of vLLM (default: 0.9)",
    )
    command.add_argument(
        "--gpus", type=int, default=1, metavar="N", help="--tensor-parallel-size (default: 1)"
    )
    command.add_argument(
        "--weight-bits",
        type=int,
        default=16,
        choices=(4, 8, 16),
        help="bits of a weight, below 16 if quantised (default: 16)",
    )
    command.add_argument(
        "--adapters",
        type=int,
        default=0,
        metavar="N",
        help="--max-loras of vLLM, for a shared base (default: 0)",
    )
    command.add_argument(
        "--adapter-rank",
        type=int,
        default=64,
        metavar="N",
        help="--max-lora-rank of vLLM (default: 64)",
    )
    command.set_defaults(command=print_serving_plan)


def print_serving_plan(options: argparse.Namespace) -> int:
    """Print the plan of a model server's memory.

    Raises:
        ConfigError: the model does not fit.
        ModelConfigError: the model is not supported.
    """
    from training.model.config import parse_config

    check_model_directory(options.model, "model")
    raw = read_object(options.model / "config.json")
    # Imports torch, so the file is checked before.
    from training.model_store.checks import QUANTISATION
    from training.planning.serving import plan_serving

    model = parse_config({name: value for name, value in raw.items() if name != QUANTISATION})
    plan = plan_serving(
        model,
        options.gpu_gib,
        options.fraction,
        options.context,
        gpus=options.gpus,
        weight_bits=options.weight_bits,
        adapters=options.adapters,
        adapter_rank=options.adapter_rank,
    )
    print(plan.text())
    return 0


def run(options: argparse.Namespace) -> int:
    """Import a model.

    Raises:
        ConfigError: source or destination is malformed.
        ModelImportError and others: as `import_model`.
    """
    from training.model_store.importing import import_model

    file = options.chat_template
    template = read_file("--chat-template", file) if file else ""
    with ExitStack() as stack:
        destination = _destination(options, stack)
        import_model(
            *(_source(options), options.name, destination, options.accept_terms, _say),
            thinking=options.thinking == "on",
            template=template,
        )
    return 0


def _source(options: argparse.Namespace) -> Source:
    from training.model_store.bucket import BucketSource, open_bucket, parse_url
    from training.model_store.hub import HubAccess, HubSource
    from training.model_store.source import DirectorySource

    text = options.source
    if text.startswith(SCHEME):
        url = parse_url(text, "SOURCE")
        return BucketSource(open_bucket(url, os.environ), url)
    if Path(text).is_dir():
        return DirectorySource(Path(text).resolve())
    if HUB_ID.fullmatch(text):
        file = options.token_file
        token = read_file("--token-file", file) if file else os.environ.get(TOKEN_VARIABLE, "")
        return HubSource(text, HubAccess(options.hub, token.strip()))
    raise ConfigError(
        f"SOURCE: {text!r} is not a directory, s3://BUCKET/PREFIX or owner/model@revision",
        field="SOURCE",
        reason="UNKNOWN",
        limit="directory, s3://BUCKET/PREFIX, owner/model@revision",
    )


def _destination(options: argparse.Namespace, stack: ExitStack) -> Destination:
    from training.model_store.bucket import open_store
    from training.model_store.destination import BucketDestination, DirectoryDestination

    if not options.to.startswith(SCHEME):
        return DirectoryDestination(Path(options.to))
    store = open_store(options.to, "--to", os.environ)
    scratch = options.scratch or Path(stack.enter_context(tempfile.TemporaryDirectory()))
    return BucketDestination(store, scratch)


def _say(text: str) -> None:
    print(text, flush=True)
