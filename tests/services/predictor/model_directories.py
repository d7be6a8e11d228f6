"""Complete model directories as written by the trainer.

A tiny random Llama, a byte-level tokenizer, a template, and the manifest, which is written last.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from tests.services.predictor import checkpoints

SPECIAL = ("<pad>", "<s>", "</s>", "<|user|>", "<|assistant|>", "<|system|>")
END_ID = 2
VOCAB_SIZE = len(SPECIAL) + 256
TEMPLATE = (
    "{% for m in messages %}{% if m.role not in ('system', 'user', 'assistant') %}"
    "{{ raise_exception('roles are system, user, assistant') }}{% endif %}"
    "<|{{ m.role }}|>{{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def byte_tokenizer() -> Tokenizer:
    """Return a tokenizer with one token per byte.

    Random models then produce incomplete and complete characters.
    """
    names = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(
        models.BPE(vocab={name: index for index, name in enumerate(names)}, merges=[])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in SPECIAL])
    return tokenizer


def write_model(directory: Path, version: str, seed: int = 7, **config: Any) -> Path:
    """Write a directory that the predictor accepts."""
    model = checkpoints.llama(vocab_size=VOCAB_SIZE, eos_token_id=END_ID, **config)
    checkpoints.reseed(model, seed)
    checkpoints.save(model, directory)
    byte_tokenizer().save(str(directory / "tokenizer.json"))
    tokenizer_config = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": TEMPLATE}
    (directory / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": END_ID}))
    write_manifest(directory, version)
    return directory


def write_manifest(directory: Path, version: str, **changes: Any) -> None:
    """Write the manifest with the hashes of the present files."""
    files = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.iterdir())
        if path.name != "manifest.json"
    }
    content = {"format": 1, "kind": "model", "version": version, "files": files, **changes}
    (directory / "manifest.json").write_text(json.dumps(content))
