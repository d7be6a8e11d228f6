"""One request on its way through the engine, and what it yields. Knows ids only; text is made
elsewhere.
"""

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from services.predictor.errors import PredictorError


class Finish(StrEnum):
    """Why a generation ended."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to choose tokens. A temperature of 0 is greedy. `end_ids` end the generation unless
    ignore_eos is set.
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
    """New tokens in order; `log_probs` (natural, of the raw model) is as long, or empty if not
    asked for.
    """

    ids: tuple[int, ...]
    log_probs: tuple[float, ...]


class Generation:
    """An asynchronous iterator of token batches. Batches that pile up behind a slow reader come out
    as one.

    The engine's thread reads `cancelled` between two steps; everything else here belongs to the
    event loop.
    """

    def __init__(self, prompt: Sequence[int], sampling: Sampling, submitted_at: float) -> None:
        self.prompt = tuple(prompt)
        self.sampling = sampling
        self.submitted_at = submitted_at
        self.cancelled = False
        self.finish: Finish | None = None
        self._arrived: asyncio.Queue[TokenBatch | Finish | PredictorError] = asyncio.Queue()

    def cancel(self) -> None:
        """Ask the engine to stop; it does so before its next step."""
        self.cancelled = True

    def deliver(self, item: TokenBatch | Finish | PredictorError) -> None:
        """Called on the event loop for what the engine's thread produced."""
        self._arrived.put_nowait(item)

    def __aiter__(self) -> "Generation":
        return self

    async def __anext__(self) -> TokenBatch:
        item = await self._arrived.get()
        if isinstance(item, PredictorError):
            raise item
        if isinstance(item, Finish):
            self.finish = item
            raise StopAsyncIteration
        return _joined([item, *self._batches_at_hand()])

    def _batches_at_hand(self) -> list[TokenBatch]:
        found: list[TokenBatch] = []
        while not self._arrived.empty():
            item = self._arrived.get_nowait()
            if not isinstance(item, TokenBatch):
                # Ends come last: put back, nothing can overtake it.
                self._arrived.put_nowait(item)
                break
            found.append(item)
        return found


def _joined(batches: list[TokenBatch]) -> TokenBatch:
    if len(batches) == 1:
        return batches[0]
    chain = itertools.chain.from_iterable
    return TokenBatch(
        tuple(chain(batch.ids for batch in batches)),
        tuple(chain(batch.log_probs for batch in batches)),
    )
