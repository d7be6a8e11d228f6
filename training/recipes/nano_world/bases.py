"""Base models of the toy world: nano, and models in the form of Llama 3 and Qwen3.

nano is committed. The two others show the loop with the formats of open models: tokenizer.json,
special tokens, chat template and config.json of the family, 5 million weights, 1,024 positions.
They stay in the cache, in a folder named after the hash of the files that determine them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.data.packages import cache
from training.model.config import llama_json
from training.optim.config import OptimizerConfig
from training.recipes.pretraining.texts import PACKAGES
from training.runtime.context import Machine
from training.tokenization import byte_pairs, families
from training.tokenization.families import LLAMA, QWEN, TokenizerFamily

HERE = Path(__file__).parent
# A change of the trainer changes bits of the weights, but not what they are good for.
DETERMINING = (
    *(HERE / f"{name}.py" for name in ("bases", "corpus", "facts", "train_base")),
    *(Path(str(module.__file__)) for module in (byte_pairs, families)),
    PACKAGES,
)


@dataclass(frozen=True)
class Base:
    """A base model of the world and its training.

    Attributes:
        version: name in manifests, and of its folder.
        shape: config.json; the size of the vocabulary is that of the learned tokenizer.
        family: format of the tokenizer; None: nano's own.
        openings: openings of Wikipedia articles in the texts. The world has about 450 words, which
            fill a vocabulary of 1,024.
        conversations, stories: texts of pre-training.
        fine_tuning: conversations of SFT.
        pretrain_rows, sft_rows: rows of a step; `sft_microbatch_rows` of similar length at once.
    """

    version: str
    shape: Mapping[str, Any]
    family: TokenizerFamily | None
    openings: int
    conversations: int
    stories: int
    fine_tuning: int
    pretrain_steps: int
    pretrain_rows: int
    sft_rows: int
    sft_microbatch_rows: int
    pretrain_optimizer: OptimizerConfig
    sft_optimizer: OptimizerConfig
    machine: Machine

    @property
    def cached(self) -> Path:
        """Return the folder of the model in the cache; it may be missing."""
        digest = hashlib.sha256()
        for path in DETERMINING:
            digest.update(path.read_bytes())
        return cache() / "models" / f"nano-world-{digest.hexdigest()[:16]}" / self.version


def _family_base(version: str, shape: Mapping[str, Any], family: TokenizerFamily) -> Base:
    return Base(
        version=version,
        shape=shape,
        family=family,
        openings=1_000,
        conversations=6_000,
        stories=1_000,
        fine_tuning=10_000,
        pretrain_steps=200,
        pretrain_rows=16,
        sft_rows=32,
        sft_microbatch_rows=8,
        pretrain_optimizer=OptimizerConfig(
            algorithm="muon",
            learning_rate=3e-3,
            schedule="wsd",
            warmup_fraction=0.05,
            final_fraction=0.0,
            weight_decay=0.1,
            epsilon=1e-8,
        ),
        sft_optimizer=OptimizerConfig(
            algorithm="muon", learning_rate=1e-3, schedule="linear", final_fraction=0.0
        ),
        # As nano: on busy cores two threads wait for each other. bfloat16 is twice as fast.
        machine=Machine(threads=1, dtype="auto"),
    )


# float16: the changes of a run are small against the weights, and 8 bits of mantissa would round
# them away.
NANO = Base(
    version="nano-0",
    # 0.85 M parameters, 1.7 MB
    shape=llama_json(1024, 128, 4, 4, 2, 336)
    | {"max_position_embeddings": 256, "dtype": "float16"},
    family=None,
    openings=0,
    conversations=24_000,
    stories=4_000,
    fine_tuning=64_000,
    pretrain_steps=400,
    pretrain_rows=32,
    sft_rows=64,
    sft_microbatch_rows=64,
    pretrain_optimizer=OptimizerConfig(
        learning_rate=3e-3, schedule="cosine", final_fraction=0.1, weight_decay=0.01
    ),
    sft_optimizer=OptimizerConfig(learning_rate=2e-3, schedule="linear", final_fraction=0.0),
    machine=Machine(threads=1),
)
LLAMA_BASE = _family_base(
    "llama-0",
    llama_json(8192, 256, 4, 4, 2, 704) | {"max_position_embeddings": 1024, "dtype": "float16"},
    LLAMA,
)
QWEN_BASE = _family_base(
    "qwen3-0",
    # Heads wider than the model, as in Qwen3 0.6B.
    {
        name: value
        for name, value in llama_json(8192, 256, 4, 6, 2, 704).items()
        if name != "mlp_bias"
    }
    | {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "head_dim": 64,
        "max_position_embeddings": 1024,
        "dtype": "float16",
    },
    QWEN,
)
BASES: Mapping[str, Base] = {"nano": NANO, "llama": LLAMA_BASE, "qwen3": QWEN_BASE}
