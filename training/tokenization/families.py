"""Tokenizers in the format of a model family, with merges learned from own texts.

A family determines the pre-tokenizer, the special tokens, which follow the learned tokens, and the
form of a chat. Sources: tokenizer.json and the model cards of Llama 3 (Meta) and Qwen3 (Qwen team);
the chat templates are written for plain chats, without tools and thinking.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, normalizers, processors

from training.tokenization.byte_pairs import PATTERNS, Split, learn_merges, write_tokenizer

LLAMA_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}"
    "{{ message['content'] | trim }}<|eot_id|>"
    "{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}"
    "{% endif %}"
)
QWEN_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


@dataclass(frozen=True)
class TokenizerFamily:
    """Format of a family's tokenizer directory.

    Attributes:
        pattern: pre-tokenization; no token crosses a piece boundary.
        special: special tokens in order of their ids.
        begin: token before a text; "": none.
        stops: tokens that end an answer; the first one is written by the template.
        normalised: texts are brought into Unicode's form NFC.
        tokenizer_class: class of transformers.
    """

    pattern: str
    special: tuple[str, ...]
    begin: str
    stops: tuple[str, ...]
    pad: str
    template: str
    normalised: bool
    tokenizer_class: str


LLAMA = TokenizerFamily(
    pattern=PATTERNS[Split.GPT4],
    special=(
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|finetune_right_pad_id|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eot_id|>",
    ),
    begin="<|begin_of_text|>",
    stops=("<|eot_id|>", "<|end_of_text|>"),
    pad="<|finetune_right_pad_id|>",
    template=LLAMA_TEMPLATE,
    normalised=False,
    tokenizer_class="PreTrainedTokenizerFast",
)
QWEN = TokenizerFamily(
    # Each digit is a token of its own.
    pattern=PATTERNS[Split.GPT4].replace(r"\p{N}{1,3}", r"\p{N}"),
    special=("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    begin="",
    stops=("<|im_end|>", "<|endoftext|>"),
    pad="<|endoftext|>",
    template=QWEN_TEMPLATE,
    normalised=True,
    tokenizer_class="Qwen2Tokenizer",
)


def train_family_tokenizer(
    texts: Iterable[str], vocab_size: int, family: TokenizerFamily, directory: Path
) -> Tokenizer:
    """Learn a tokenizer in the format of a family and write its directory.

    Args:
        vocab_size: largest number of tokens, special ones included.

    Raises:
        ConfigError: `vocab_size` is too small.
    """
    tokenizer = learn_merges(
        texts,
        vocab_size - len(family.special),
        family.pattern,
        normalizers.NFC() if family.normalised else None,
    )
    tokenizer.add_special_tokens(
        [AddedToken(token, normalized=False, special=True) for token in family.special]
    )
    ids = {token: tokenizer.token_to_id(token) for token in family.special}
    if family.begin:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{family.begin} $A",
            pair=f"{family.begin} $A {family.begin}:1 $B:1",
            special_tokens=[(family.begin, ids[family.begin])],
        )
    write_tokenizer(tokenizer, directory)
    settings = {
        "tokenizer_class": family.tokenizer_class,
        "bos_token": family.begin or None,
        "eos_token": family.stops[0],
        "pad_token": family.pad,
        "chat_template": family.template,
        "clean_up_tokenization_spaces": False,
    }
    generation = {
        "bos_token_id": ids[family.begin or family.pad],
        "eos_token_id": [ids[token] for token in family.stops],
        "pad_token_id": ids[family.pad],
    }
    for name, content in (("tokenizer", settings), ("generation", generation)):
        (directory / f"{name}_config.json").write_text(json.dumps(content, indent=2) + "\n")
    return tokenizer
