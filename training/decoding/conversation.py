"""Models in a conversation, with their answers during generation."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from torch import Tensor

from training.data.chat import Message
from training.data.context import fit_context
from training.decoding.config import DEFAULT_MAX_TOKENS, DecodingError, Rules
from training.decoding.prompts import Prompts
from training.decoding.rows import Rows, stop_at
from training.decoding.sampling import sample
from training.decoding.text import IncrementalDetokenizer, stop_at_text
from training.model.backbone import Backbone
from training.model.checkpoint import load_decoder
from training.model.transformer import KeyValueCache
from training.runtime.context import Machine
from training.runtime.machine import sampling_threads, to_device


class Finish(StrEnum):
    """Reason for the end of an answer."""

    ENDED = "ended"
    LIMIT = "limit"
    STOPPED = "stopped"


@dataclass(frozen=True)
class Answer:
    """An answer of one model.

    Attributes:
        messages: the whole context of the question, before shortening.
        tokens: number of generated tokens, with the end token.
        dropped: number of the oldest messages beyond the window.
    """

    messages: tuple[Message, ...]
    text: str
    tokens: int
    seconds: float
    finish: Finish
    dropped: int

    @property
    def is_complete(self) -> bool:
        """True for an answer with text and an end token."""
        return self.finish is Finish.ENDED and bool(self.text.strip())

    @property
    def row(self) -> dict[str, object]:
        """The answer as a row for `train sft`."""
        messages = [asdict(message) for message in self.messages]
        return {"messages": messages, "response": self.text}


class ConversingModel:
    """Model of a directory in a conversation.

    The keys and values of the last prompt and answer are kept: a further question costs its own
    tokens, not those of the whole conversation.

    Args:
        prompts, plain_because: of the directory, as `open_prompts` returns them.
        max_tokens: limit of an answer; None is DEFAULT_MAX_TOKENS, at most half of the window.

    Raises:
        ModelConfigError, CheckpointError: the directory is not a complete model.
        DecodingError: max_tokens leave no room for a question.
    """

    def __init__(
        self, directory: Path, prompts: Prompts, plain_because: str, max_tokens: int | None
    ) -> None:
        began = time.perf_counter()
        self._prompts, self.plain_because = prompts, plain_because
        self._backbone = Backbone(to_device(load_decoder(directory)))
        self.window = self._backbone.decoder.config.max_positions
        self.max_tokens = max_tokens or max(1, min(DEFAULT_MAX_TOKENS, self.window // 2))
        if self.max_tokens >= self.window:
            raise DecodingError(
                f"max_tokens: {self.max_tokens} leaves no room for a question in the "
                f"{self.window} positions of {directory}",
                field="max_tokens",
                reason="TOO_LARGE",
                limit=f"below {self.window}",
            )
        self.seconds = time.perf_counter() - began
        self._read_ids: list[int] = []
        self._read = KeyValueCache(0)

    def check_system(self, system: str) -> None:
        """Refuse a system message without a place in the template.

        Raises:
            ChatError: the template refuses the message.
        """
        self._prompts.prompt_ids([Message("system", system), Message("user", "hello")])

    def context(
        self, system: str, history: Sequence[tuple[str, str]], question: str
    ) -> list[Message]:
        """Return the messages before an answer, without history for a model of plain texts.

        Args:
            history: earlier questions and answers. Questions without an answer are left out, as in
                serving.
        """
        messages = [Message("user", question)]
        if self.plain_because:
            return messages
        for asked, answered in reversed(history):
            if answered.strip():
                messages[:0] = [Message("user", asked), Message("assistant", answered)]
        return [*([Message("system", system)] if system else []), *messages]

    def answer(
        self,
        messages: Sequence[Message],
        rules: Rules,
        seed: int,
        show: Callable[[str], None],
        is_stopped: Callable[[], bool],
    ) -> Answer:
        """Answer the last message.

        Args:
            show: called with each new piece of the text.
            is_stopped: asked after each token; True ends the answer.

        Raises:
            ChatError: the template refuses the messages.
            DecodingError: the last message does not fit the window.
        """
        began = time.perf_counter()
        room = self.window - self.max_tokens
        prompt = fit_context(self._prompts, messages, room)
        if prompt is None:
            raise DecodingError(
                f"question: longer than the {room} tokens that the window of {self.window} has "
                f"beside an answer of {self.max_tokens} (with the system message)",
                field="question",
                reason="TOO_LARGE",
                limit=f"at most {room} tokens",
            )
        text = IncrementalDetokenizer(self._prompts.decode)
        is_end = stop_at(self._prompts.stop_ids)

        def ends(token_B: Tensor, real_B: Tensor) -> Tensor:
            return is_end(token_B, real_B) | is_stopped()

        rows = Rows(
            self._backbone, [prompt.ids], self.max_tokens, cache=self._cache_for(prompt.ids)
        )
        stop = stop_at_text([text], ends, lambda _, piece: show(piece))
        with sampling_threads(Machine()):
            (continued,) = sample(rows, rules, stop, self.max_tokens, [seed])
        # The last token has been sampled and not been read.
        self._read_ids, self._read = rows.ids_BS[0].tolist()[:-1], rows.cache
        show(text.finish())
        finish = Finish.ENDED if continued.ended else Finish.LIMIT
        return Answer(
            tuple(messages),
            text.text,
            len(continued.ids),
            time.perf_counter() - began,
            Finish.STOPPED if is_stopped() else finish,
            prompt.dropped,
        )

    def _cache_for(self, ids: Sequence[int]) -> KeyValueCache:
        """Return a cache with the common beginning of the ids and the last prompt and answer."""
        most = min(len(ids) - 1, len(self._read_ids))
        common = next((at for at in range(most) if ids[at] != self._read_ids[at]), most)
        cache = self._read.prefix(common, len(ids) + self.max_tokens)
        # An interrupted forward pass leaves a cache that does not fit its ids.
        self._read_ids, self._read = [], KeyValueCache(0)
        return cache
