"""One request in the engine and its token ids; text is produced in `predictor.text`."""

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from services.predictor.errors import PredictorError


class Finish(StrEnum):
    """Reason for the end of a generation."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Sampling:
    """Sampling parameters of one request.

    A temperature of 0 selects greedy decoding. `end_ids` end the generation unless `ignore_eos` is
    set. `top_k` 0 disables the limit.
    """

    max_new_tokens: int
    end_ids: tuple[int, ...]
    seed: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    min_new_tokens: int = 0
    ignore_eos: bool = False
    log_probs: bool = False


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """New tokens in order.

    `log_probs` are natural logarithms of the raw model's probabilities, one for each id, or empty
    if not requested.
    """

    ids: tuple[int, ...]
    log_probs: tuple[float, ...]


class Generation:
    """An asynchronous iterator of token batches.

    Batches that accumulate behind a slow reader are joined. The engine's thread reads `cancelled`
    between two steps; all other attributes belong to the event loop.
    """

    def __init__(self, prompt: Sequence[int], sampling: Sampling, submitted_at: float) -> None:
        self.prompt = tuple(prompt)
        self.sampling = sampling
        self.submitted_at = submitted_at
        self.cancelled = False
        self.finish: Finish | None = None
        self._queue: asyncio.Queue[TokenBatch | Finish | PredictorError] = asyncio.Queue()

    def cancel(self) -> None:
        """Request the end of the generation before the next step of the engine."""
        self.cancelled = True

    def deliver(self, item: TokenBatch | Finish | PredictorError) -> None:
        """Add an item of the engine; called on the event loop."""
        self._queue.put_nowait(item)

    def __aiter__(self) -> "Generation":
        return self

    async def __anext__(self) -> TokenBatch:
        item = await self._queue.get()
        if isinstance(item, PredictorError):
            raise item
        if isinstance(item, Finish):
            self.finish = item
            raise StopAsyncIteration
        batches = [item]
        while not self._queue.empty():
            queued = self._queue.get_nowait()
            if not isinstance(queued, TokenBatch):
                # An end is the last item, so putting it back cannot change the order.
                self._queue.put_nowait(queued)
                break
            batches.append(queued)
        if len(batches) == 1:
            return item
        chain = itertools.chain.from_iterable
        return TokenBatch(
            tuple(chain(batch.ids for batch in batches)),
            tuple(chain(batch.log_probs for batch in batches)),
        )
