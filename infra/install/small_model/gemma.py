"""Conversion of Gemma-3-270M from its GGUF file to Hugging Face's names and files.

llama.cpp differs in two ways: norm weights are stored with Gemma's offset of 1 added, and the
embedding also serves as the output projection.
"""

import re
from collections.abc import Sequence
from typing import Any

from infra.install.small_model.gguf import GgufFile
from infra.install.small_model.tensors import Floats
from infra.install.small_model.tokenizer import Pieces, sentencepiece

EMBEDDING = "model.embed_tokens.weight"
_STORED_EMBEDDING = "token_embd.weight"
_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_BLOCK = re.compile(r"blk\.(\d+)\.(\w+)\.weight")

# Turn format of google/gemma-3-270m. Gemma has no system role, so a system message is prepended to
# the first user turn.
CHAT_TEMPLATE = """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- set opening = messages[0]['content'] | trim + '\n\n' -%}
    {%- set turns = messages[1:] -%}
{%- else -%}
    {%- set opening = '' -%}
    {%- set turns = messages -%}
{%- endif -%}
{%- for message in turns -%}
    {{- '<start_of_turn>' + \
('model' if message['role'] == 'assistant' else message['role']) + '\n' -}}
    {{- (opening if loop.first else '') + message['content'] | trim + '<end_of_turn>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<start_of_turn>model\n' -}}
{%- endif -%}
"""


def pieces_of(gguf: GgufFile) -> Pieces:
    """Return the SentencePiece vocabulary of the file."""
    kinds = [int(kind) for kind in gguf.numbers("tokenizer.ggml.token_type")]
    return sentencepiece(
        gguf.texts("tokenizer.ggml.tokens"), gguf.numbers("tokenizer.ggml.scores"), kinds
    )


def tokenizer_config() -> dict[str, Any]:
    """Return tokenizer_config.json with the chat template and the special tokens."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "clean_up_tokenization_spaces": False,
        "model_max_length": 32768,
        "chat_template": CHAT_TEMPLATE,
    }


def shapes_of(gguf: GgufFile, kept_pieces: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all tensors by Hugging Face name.

    The embedding has `kept_pieces` rows.
    """
    shapes = {hugging_face_name(name): place.shape for name, place in gguf.locations.items()}
    return {**shapes, EMBEDDING: (kept_pieces, shapes[EMBEDDING][1])}


def tensor_of(gguf: GgufFile, name: str, kept_pieces: Sequence[int]) -> Floats:
    """Return a tensor in fp32 by its Hugging Face name."""
    (source,) = [found for found in gguf.locations if hugging_face_name(found) == name]
    if name == EMBEDDING:
        return gguf.tensor(source, kept_pieces)
    tensor = gguf.tensor(source)
    # llama.cpp stores w + 1; transformers adds the 1 itself.
    return tensor - 1 if name.endswith("norm.weight") else tensor


def hugging_face_name(name: str) -> str:
    """Translate a tensor name of llama.cpp into the name of transformers."""
    if name == _STORED_EMBEDDING:
        return EMBEDDING
    if name == "output_norm.weight":
        return "model.norm.weight"
    block = _BLOCK.fullmatch(name)
    assert block is not None, name
    return f"model.layers.{block[1]}.{_NAMES[block[2]]}.weight"


def config_of(gguf: GgufFile, vocabulary_size: int, eos_ids: Sequence[int]) -> dict[str, Any]:
    """Return config.json.

    The GGUF file lacks the RoPE base of local layers and the order of layer types; both are from
    the Gemma 3 report, §2.
    """
    read = gguf.metadata
    layers = int(str(read["gemma3.block_count"]))
    return {
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "vocab_size": vocabulary_size,
        "hidden_size": read["gemma3.embedding_length"],
        "intermediate_size": read["gemma3.feed_forward_length"],
        "num_hidden_layers": layers,
        "num_attention_heads": read["gemma3.attention.head_count"],
        "num_key_value_heads": read["gemma3.attention.head_count_kv"],
        "head_dim": read["gemma3.attention.key_length"],
        "query_pre_attn_scalar": read["gemma3.attention.key_length"],
        "max_position_embeddings": read["gemma3.context_length"],
        "rms_norm_eps": 1e-6,
        "sliding_window": read["gemma3.attention.sliding_window"],
        "layer_types": [
            "full_attention" if i % 6 == 5 else "sliding_attention" for i in range(layers)
        ],
        "rope_theta": read["gemma3.rope.freq_base"],
        "rope_local_base_freq": 10000.0,
        "rope_scaling": None,
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
        "initializer_range": 0.02,
        "tie_word_embeddings": True,
        "use_cache": True,
        "pad_token_id": 0,
        "bos_token_id": 2,
        "eos_token_id": list(eos_ids),
        "dtype": "bfloat16",
    }
