"""Model server of the generator that repeats the last message."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from thumbwheel.chat.v1 import chat_pb2

from services.generator.answering.presets import Sampling
from services.generator.answering.stream import Chunk


class EchoServer:
    """Model server that answers with the last message, in parts of three characters."""

    def __init__(self, info: Mapping[str, Any] | None = None) -> None:
        self.info = info
        self.loaded: list[str] = []
        self.messages: Sequence[chat_pb2.HistoryMessage] = ()

    @property
    def texts(self) -> list[str]:
        return [message.text for message in self.messages]

    async def index(self) -> Mapping[str, bool]:
        return dict.fromkeys(self.loaded, True)

    async def load(self, version: str, directory: str) -> None:
        self.loaded.append(version)

    async def load_missing(self, version: str, directory: str) -> None:
        """Do nothing, since there is one replica."""

    async def unload(self, version: str) -> None:
        self.loaded.remove(version)

    async def bases(self, wanted: Mapping[str, str]) -> frozenset[str]:
        return frozenset()

    async def tokenizer_info(self, version: str) -> Mapping[str, Any] | None:
        return self.info

    async def tokenize(self, version: str, text: str) -> list[int] | None:
        return None

    async def answer(
        self,
        version: str,
        messages: Sequence[chat_pb2.HistoryMessage],
        sampling: Sampling,
        on_chunk: Callable[[Chunk], None],
    ) -> None:
        self.messages = messages
        text = self.texts[-1]
        for start in range(0, len(text), 3):
            on_chunk(Chunk(text[start : start + 3], token_ids=(start,)))
        on_chunk(Chunk("", "stop", (1, 1)))
