"""Messages without control tokens for every model server, and answers with the original texts.

vLLM gives the text of a control token its id, so a message could end its turn and begin another
one. The list of control tokens is that of the version's tokenizer: from its files, else from its
server, else that of known families.
"""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from thumbwheel.chat.v1 import chat_pb2

from chat_format.control_tokens import AnswerRestorer, ControlTokens, Disarmed, merge_originals
from chat_format.errors import ChatFormatError
from chat_format.tokenizer_check import compare_ids, read_token_ids
from services.chassis.errors import FailedPreconditionError, InvalidArgumentError
from services.chassis.telemetry import fields
from services.generator.answering.engine import ChatServer
from services.generator.answering.presets import Sampling
from services.generator.answering.stream import Chunk
from services.generator.rollout.reconcile import ModelRepository

log = logging.getLogger(__name__)

Request = Callable[[Sequence[chat_pb2.HistoryMessage], Callable[[Chunk], None]], Awaitable[None]]
"""Sends messages to a model and passes its chunks on."""

# About 5 ms for the search. A longer conversation would delay other streams.
THREAD_CHARACTERS = 8192
# After this time the server of a version without files is asked again.
REPEAT_SECONDS = 60.0


@dataclass(frozen=True)
class _Known:
    """Control tokens of a version, used until a time of the monotonic clock."""

    tokens: ControlTokens
    until: float = math.inf


class ModelServer(ChatServer, ModelRepository, Protocol):
    """Server of the versions, with both Protocols of the generator.

    `tokenizer_info` returns the tokenizer_config.json of a version, and `tokenize` the ids of a
    text, or None if the server has no such path.
    """

    async def tokenizer_info(self, version: str) -> Mapping[str, Any] | None: ...
    async def tokenize(self, version: str, text: str) -> list[int] | None: ...


class PlainMessages:
    """Wraps a model server, so that no message with control tokens reaches it.

    Args:
        server: the model server.
        directory_of: directory of a version of the rollout, for versions that were loaded before
            this process started; None for others.
    """

    def __init__(self, server: ModelServer, directory_of: Callable[[str], str | None]) -> None:
        self._server = server
        self._directory_of = directory_of
        self._control_tokens: dict[str, _Known] = {}
        self._refused: set[str] = set()

    async def index(self) -> Mapping[str, bool]:
        """Return the index of the model server, see `ModelRepository`."""
        index = await self._server.index()
        # A version with another tokenizer is loaded at the server, and must get no request.
        return {name: ready and name not in self._refused for name, ready in index.items()}

    async def load(self, version: str, directory: str) -> None:
        """Read the control tokens of a version, load it, and compare the server's tokenizer.

        Raises:
            FailedPreconditionError: the list is unusable, the server encodes a text in another way
                than training did (reason MISMATCH), or of the model server.
        """
        tokens = await _read(directory)
        self._refused.add(version)  # until the comparison ends
        await self._server.load(version, directory)
        await self._compare_tokenizer(version, directory)
        self._refused.discard(version)
        if tokens is not None:
            self._control_tokens[version] = _Known(tokens)

    async def load_missing(self, version: str, directory: str) -> None:
        """Load a served version into further replicas, see `ModelRepository`."""
        await self._server.load_missing(version, directory)

    async def unload(self, version: str) -> None:
        """Unload a version and forget its list of control tokens."""
        await self._server.unload(version)
        self._control_tokens.pop(version, None)
        self._refused.discard(version)

    async def bases(self, wanted: Mapping[str, str]) -> frozenset[str]:
        """Return the bases of the wanted versions, see `ModelRepository`."""
        return await self._server.bases(wanted)

    async def answer(
        self,
        version: str,
        messages: Sequence[chat_pb2.HistoryMessage],
        sampling: Sampling,
        on_chunk: Callable[[Chunk], None],
    ) -> None:
        """Implement `ChatServer.answer`.

        The answer has the control tokens of the messages as people wrote them.

        Raises:
            InvalidArgumentError: control tokens remain; reason CONTROL_TOKENS.
            ServiceError: of the model server.
        """

        async def request(
            plain: Sequence[chat_pb2.HistoryMessage], sink: Callable[[Chunk], None]
        ) -> None:
            await self._server.answer(version, plain, sampling, sink)

        await answer_plain(await self._tokens_of(version), messages, request, on_chunk)

    async def _compare_tokenizer(self, version: str, directory: str) -> None:
        """Compare token ids with those that training wrote beside the tokenizer, if it did."""
        try:
            written = await asyncio.to_thread(read_token_ids, Path(directory))
            for text, ids in (written or {}).items():
                found = await self._server.tokenize(version, text)
                if found is None:
                    log.info("tokenizer not compared", extra=fields(version=version))
                    return
                compare_ids(text, ids, found)
        except ChatFormatError as error:
            raise _refusal(error) from error

    async def _tokens_of(self, version: str) -> ControlTokens:
        known = self._control_tokens.get(version)
        if known is None or time.monotonic() > known.until:
            directory = self._directory_of(version)
            tokens, until = await _read(directory) if directory else None, math.inf
            if tokens is None:
                info = await self._server.tokenizer_info(version)
                tokens = await asyncio.to_thread(ControlTokens.from_configuration, info)
                until = time.monotonic() + REPEAT_SECONDS
                log.info("control tokens without files", extra=fields(version=version))
            known = self._control_tokens[version] = _Known(tokens, until)
        return known.tokens


async def answer_plain(
    tokens: ControlTokens,
    messages: Sequence[chat_pb2.HistoryMessage],
    request: Request,
    on_chunk: Callable[[Chunk], None],
) -> None:
    """Request an answer to the messages without control tokens.

    Args:
        tokens: control tokens of the model.
        messages: context, oldest message first.
        request: sends the messages to the model.
        on_chunk: called with each chunk, with the control tokens of the messages as people wrote
            them.

    Raises:
        InvalidArgumentError: control tokens remain; reason CONTROL_TOKENS.
        ServiceError: of `request`.
    """
    texts = [message.text for message in messages]
    try:
        if sum(map(len, texts)) > THREAD_CHARACTERS:
            disarmed = await asyncio.to_thread(_disarm, tokens, texts)
        else:
            disarmed = _disarm(tokens, texts)
    except ChatFormatError as error:
        raise InvalidArgumentError(error.text, reason=error.reason, field=error.field) from error
    if [item.text for item in disarmed] == texts:
        await request(messages, on_chunk)
        return
    plain = [
        chat_pb2.HistoryMessage(role=message.role, text=item.text)
        for message, item in zip(messages, disarmed, strict=True)
    ]
    restorer = AnswerRestorer(merge_originals(disarmed))

    def restore(chunk: Chunk) -> None:
        text = restorer.feed(chunk.text)
        # The chunk with the finish reason is the last one with text.
        text += restorer.flush() if chunk.finish_reason else ""
        on_chunk(replace(chunk, text=text))

    await request(plain, restore)


async def _read(directory: str) -> ControlTokens | None:
    """Return the control tokens of a model directory, or None without a tokenizer.json.

    Raises:
        FailedPreconditionError: the list is malformed or unusable.
    """
    try:
        return await asyncio.to_thread(ControlTokens.from_directory, Path(directory))
    except ChatFormatError as error:
        if error.reason == "MISSING":
            return None
        raise _refusal(error) from error


def _refusal(error: ChatFormatError) -> FailedPreconditionError:
    return FailedPreconditionError(
        error.text, reason=error.reason, field=error.field, limit=error.limit
    )


def _disarm(tokens: ControlTokens, texts: Sequence[str]) -> list[Disarmed]:
    return [tokens.disarm(text) for text in texts]
