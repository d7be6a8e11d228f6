"""Command line of the enhancer: `python -m services.enhancer`."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from thumbwheel.enhancer.v1 import enhancer_pb2_grpc

from services.chassis.server import Registration, run_service
from services.chassis.settings import load_settings
from services.enhancer.access import CALLERS
from services.enhancer.correction.grammar import Grammar
from services.enhancer.correction.known_words import extra_counts
from services.enhancer.correction.language import LanguageDetector
from services.enhancer.correction.spelling import Speller
from services.enhancer.correction.vocabulary import read_vocabulary
from services.enhancer.prompt import Enhancer
from services.enhancer.servicer import NAME, EnhancerServicer
from services.enhancer.settings import EnhancerSettings


@asynccontextmanager
async def wiring(settings: EnhancerSettings) -> AsyncIterator[Sequence[Registration]]:
    """Load word lists and linter concurrently and create the servicer.

    Harper loads without the global interpreter lock.
    """
    grammar, vocabulary = await asyncio.gather(
        asyncio.to_thread(Grammar), asyncio.to_thread(read_vocabulary, extra_counts())
    )
    enhancer = Enhancer(Speller(vocabulary), grammar, LanguageDetector())
    yield [
        Registration(
            NAME,
            enhancer_pb2_grpc.add_EnhancerServiceServicer_to_server,
            EnhancerServicer(enhancer),
        )
    ]


if __name__ == "__main__":
    run_service("enhancer", load_settings(EnhancerSettings), wiring, CALLERS)
