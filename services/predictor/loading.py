"""Loading of a version from a model directory. Blocking.

The steps are: check the directory, convert or find the graph, open the pipeline, warm it up.
"""

import asyncio
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.predictor.engine.engine import AdmissionLimits, Engine
from services.predictor.engine.generation import Sampling
from services.predictor.engine.pipeline import PagedPipeline, PipelineOptions
from services.predictor.engine.scorer import PromptScorer
from services.predictor.errors import ModelRefusedError
from services.predictor.graph.conversion import load_architecture
from services.predictor.metrics import Metrics
from services.predictor.store.ir_cache import IrCache
from services.predictor.store.manifest import DigestCache, check_manifest
from services.predictor.text.chat_template import ChatTemplate, special_tokens
from services.predictor.text.codec import TextCodec
from services.predictor.version import Version

WARM_UP_REQUEST_ID = 0  # engines count from 1
WARM_UP_TOKENS = 8


@dataclass(frozen=True, slots=True)
class Loader:
    """Loads versions for one event loop."""

    digests: DigestCache
    graphs: IrCache
    options: PipelineOptions
    limits: AdmissionLimits
    metrics: Metrics
    loop: asyncio.AbstractEventLoop

    def load(self, name: str, directory: Path) -> Version:
        """Load a version and return with its engine running.

        Raises:
            ModelRefusedError: the directory is incomplete or the model unsupported; the text names
                the cause.
        """
        began = time.perf_counter()
        manifest = check_manifest(directory, name, self.digests)
        architecture = load_architecture(directory)
        codec = TextCodec.from_directory(directory)
        end_ids = read_end_ids(directory, codec)
        ir = self.graphs.get(manifest)
        pipeline = PagedPipeline(ir, self.options)
        # Run a short generation, because the first passes compile kernels for their shapes.
        # Otherwise the first answer of a user would be slow.
        sampling = Sampling(
            max_new_tokens=2, end_ids=end_ids, seed=0, temperature=0.0, ignore_eos=True
        )
        pipeline.add(WARM_UP_REQUEST_ID, end_ids[:1] * WARM_UP_TOKENS, sampling)
        while pipeline.has_work():
            pipeline.step()
            pipeline.read(WARM_UP_REQUEST_ID)
        engine = Engine(pipeline, self.limits, self.loop, self.metrics.of_version(name))
        version = Version(
            name=name,
            manifest_digest=manifest.digest,
            # The manifest is written last, so its time is that of the model.
            created=int((manifest.directory / "manifest.json").stat().st_mtime),
            codec=codec,
            template=ChatTemplate.from_directory(directory, codec.control_tokens()),
            engine=engine,
            scorer=PromptScorer(ir, architecture.vocab_size, self.options),
            vocab_size=architecture.vocab_size,
            context_tokens=min(architecture.max_positions, self.options.kv_tokens),
            end_ids=end_ids,
        )
        engine.start()
        self.metrics.load_seconds.labels(name).observe(time.perf_counter() - began)
        return version


def read_end_ids(directory: Path, codec: TextCodec) -> tuple[int, ...]:
    """Return the ids that end an answer.

    Sources in this order: generation_config.json, config.json, the eos_token of the tokenizer.

    Raises:
        ModelRefusedError: no source has an id, so generations would never end.
    """
    for file in ("generation_config.json", "config.json"):
        path = directory / file
        content: dict[str, Any] = json.loads(path.read_bytes()) if path.is_file() else {}
        value = content.get("eos_token_id")
        ids = value if isinstance(value, list) else [value]
        if all(isinstance(token, int) for token in ids) and ids:
            return tuple(dict.fromkeys(ids))
    tokenizer = json.loads((directory / "tokenizer_config.json").read_bytes())
    eos = codec.token_id(special_tokens(tokenizer).get("eos_token", ""))
    if eos is None:
        raise ModelRefusedError(
            "generation_config.json: eos_token_id is missing, also in the other files",
            field="eos_token_id",
            reason="MISSING",
        )
    return (eos,)
