"""Fake system in memory for simulated users, with configurable failures."""

import asyncio
from collections.abc import Callable

from thumbwheel.chat.v1 import chat_pb2

from infra.simulate.users.client import Answer, CallFailedError, MessageTarget


class FakeChat:
    """Fake chat with a delay in every call, so that concurrent users overlap."""

    def __init__(
        self, answer: Callable[[str, str], str] = lambda text, model: f"about {text}"
    ) -> None:
        self._answer = answer
        self.asked: list[tuple[str, str, MessageTarget, str]] = []
        self.again: list[str] = []
        self.thumbs: list[tuple[str, str, bool]] = []
        self.corrections: list[tuple[str, str]] = []
        self.failures = 0
        self.refuses = False

    async def ask(
        self, key: str, text: str, place: MessageTarget | None = None, model: str = ""
    ) -> Answer:
        await self._moment()
        self.asked.append((key, text, place or MessageTarget(), model))
        number = len(self.asked)
        finish = (
            chat_pb2.FINISH_REASON_INPUT_BLOCKED if self.refuses else chat_pb2.FINISH_REASON_STOP
        )
        return Answer(
            conversation_id=(place and place.conversation_id) or f"conversation {number}",
            user_message_id=f"question {number}",
            message_id=f"answer {number}",
            model_version="" if self.refuses else model or "v0",
            text=self._answer(text, model),
            finish=finish,
            seconds=0.0,
        )

    async def ask_again(self, key: str, answer: Answer) -> Answer:
        await self._moment()
        self.again.append(answer.user_message_id)
        return answer

    async def rate(self, key: str, message_id: str, up: bool) -> None:
        await self._moment()
        self.thumbs.append((key, message_id, up))

    async def correct(self, key: str, message_id: str, text: str) -> None:
        self.corrections.append((message_id, text))

    async def _moment(self) -> None:
        await asyncio.sleep(0)
        if self.failures > 0:
            self.failures -= 1
            raise CallFailedError("UNAVAILABLE: the model server is away", reason="UNAVAILABLE")
