"""Small tokenizers trained on the project's licence, and texts that are difficult to tokenize.

The licence changes less often than a README.
"""

from collections.abc import Iterable
from pathlib import Path

from hypothesis import strategies as st
from tokenizers import Tokenizer

from training.tokenization.byte_pairs import Split
from training.tokenization.learning import TokenizerConfig, TokenKind, learn, save
from training.tokenization.text_tokenizer import TextTokenizer, open_tokenizer

TEXT = (Path(__file__).parents[3] / "LICENSE").read_text()
DIFFICULT = (
    "",
    " ",
    "\n",
    "Hello,  world!\tTabs and   spaces.   ",
    "don't WE'LL you're I'd 'S 'ſ 'K",
    "12345678901 3.14159 ١٢٣٤٥ ½²",
    "a\n\nb\r\n\r\nc \n \n d\x0b\x0c\x85\u2028\u2029e\x1c\x1d\x1e\x1f",
    "naïve Zürich 日本語 한국어 ไทย हिन्दी",
    "😀👩‍👩‍👧🇩🇪❤️ e\u0301 \u0301",
    "שלום עולם مرحبا بالعالم \u202eabc\u202c",
    "<|end|><|user|> <|pad|>\n<|unknown|> <|assistant|>",
    "nul\0 esc\x1b bom\ufeff nbsp\xa0 zwsp\u200b \ufffd\uffff\U0010ffff",
    "aaaaaaaaaaaaaaaaa " * 50,
)
# Unicode of all kinds, with pieces relevant to splitting and merging.
unicode_texts = st.lists(
    st.one_of(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
        st.sampled_from(
            [
                " ",
                "  ",
                "\n",
                "\r\n",
                "\t",
                "'s",
                "'RE",
                "123",
                "4567",
                "the",
                " model",
                "<|end|>",
                "\u00a0",
            ]
        ),
    ),
    max_size=12,
).map("".join)


def train_byte_pairs(
    vocabulary: int, split: Split = Split.GPT4, texts: Iterable[str] = (TEXT,)
) -> Tokenizer:
    return learn(texts, TokenizerConfig(vocabulary, split=split))


def open_trained(
    directory: Path, kind: TokenKind, vocabulary: int, split: Split = Split.GPT4
) -> TextTokenizer:
    """Train a tokenizer on TEXT, write its directory, and open the directory."""
    config = TokenizerConfig(vocabulary, kind, split)
    save(learn([TEXT], config), config, directory)
    return open_tokenizer(directory)
