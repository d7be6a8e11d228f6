"""People on the cluster's network while it is changed: answers that stream all the time, and single
calls.

Runs in a pod of the services' image: `crowd.py FOLDER HOST STREAMS CALLS_A_SECOND`. In the folder
are keys.json, then `began` once all stream, and told.json at the end, which begins when somebody
puts `over` there: no connection from outside has to last as long. Nobody calls again what failed:
of an answer that broke off the rest is asked for, which is what the API is for.
"""

import asyncio
import json
import sys
import time
import uuid
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import grpc
from google.rpc import error_details_pb2, status_pb2
from thumbwheel.chat.v1 import chat_pb2, chat_pb2_grpc
from thumbwheel.feedback.v1 import feedback_pb2, feedback_pb2_grpc
from thumbwheel.feedback.v1.events_pb2 import Thumb

GRPC_PORT, HTTP_PORT = 50051, 80
TOO_MANY, NO_TIME_LEFT = 429, 504
TURN_SECONDS, CALL_SECONDS = 120.0, 20.0
MAX_TOKENS = 200
# An answer that broke off is lost when its rest cannot be had for so long.
RESUME_SECONDS = 30.0
# Whoever began it may have been killed.
MOST_SECONDS = 900.0
ENDS = (chat_pb2.FINISH_REASON_STOP, chat_pb2.FINISH_REASON_LENGTH)


@dataclass
class Told:
    """What happened. `resumed`: by the reason that the answer broke off for; `failed`, `lost`: by
    what was said, with when; `late`: told that there was no time left.
    """

    answers: int = 0
    calls: int = 0
    thumbs: list[str] = field(default_factory=list)
    running: int = 0
    least_running: int = 0
    resumed: Counter[str] = field(default_factory=Counter)
    waited: int = 0
    late: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)


@dataclass
class Answer:
    """One, as far as it was read."""

    request_id: str
    events: list[chat_pb2.ChatEvent] = field(default_factory=list)

    def trouble(self) -> str:
        """Why it is none, or nothing: 1, 2, 3 … of one message, to its end."""
        if [event.sequence for event in self.events] != list(range(1, len(self.events) + 1)):
            return "sequence"
        finish = self.events[-1].completed.finish_reason
        return "" if finish in ENDS else f"finish {chat_pb2.FinishReason.Name(finish)}"


class Crowd:
    """`host`: the door's name."""

    def __init__(self, folder: Path, host: str, told: Told) -> None:
        self._folder, self._host, self._told = folder, host, told
        self._keys: list[str] = json.loads((folder / "keys.json").read_text())
        self._over = asyncio.Event()
        self._began = time.monotonic()
        self._rated: list[tuple[str, str]] = []

    async def run(self, streams: int, calls_a_second: float) -> None:
        """Until it is over; what runs then is read to its end."""
        people = [asyncio.create_task(self._chat(number)) for number in range(streams)]
        async with (
            aiohttp.ClientSession() as http,
            grpc.aio.insecure_channel(f"{self._host}:{GRPC_PORT}") as kept,
        ):
            calling = asyncio.create_task(self._call_all(calls_a_second, http, kept))
            watching = asyncio.create_task(self._watch(streams))
            while (
                not (self._folder / "over").exists()
                and time.monotonic() < self._began + MOST_SECONDS
            ):
                await asyncio.sleep(0.5)
            watching.cancel()
            self._over.set()
            await asyncio.gather(calling, *people)

    async def _watch(self, streams: int) -> None:
        """How many run at least, once all have begun."""
        while self._told.running < streams:
            await asyncio.sleep(0.1)
        self._told.least_running = streams
        (self._folder / "began").touch()
        while True:
            self._told.least_running = min(self._told.least_running, self._told.running)
            await asyncio.sleep(0.1)

    async def _chat(self, number: int) -> None:
        """One person, who asks again as soon as an answer has ended; every second one comes on a
        new connection each time.
        """
        key, channel = self._keys[number % len(self._keys)], self._channel()
        self._told.running += 1
        while not self._over.is_set():
            if number % 2:
                await channel.close()
                channel = self._channel()
            await self._ask(key, chat_pb2_grpc.ChatServiceStub(channel))
        self._told.running -= 1
        await channel.close()

    def _channel(self) -> grpc.aio.Channel:
        return grpc.aio.insecure_channel(
            f"{self._host}:{GRPC_PORT}", [("grpc.use_local_subchannel_pool", 1)]
        )

    async def _ask(self, key: str, chat: chat_pb2_grpc.ChatServiceStub) -> None:
        answer = Answer(str(uuid.uuid4()))
        request = chat_pb2.SendMessageRequest(request_id=answer.request_id, task=chat_pb2.TASK_CHAT)
        request.input.text = "Tell me a long story about a river and a town."
        request.sampling.max_tokens = MAX_TOKENS
        broke_at = 0.0
        while True:
            call = chat.SendMessage(request, metadata=_metadata(key), timeout=TURN_SECONDS)
            if answer.events:
                after = chat_pb2.ResumeMessageRequest(
                    message_id=answer.events[0].message_id,
                    after_sequence=answer.events[-1].sequence,
                )
                call = chat.ResumeMessage(after, metadata=_metadata(key), timeout=TURN_SECONDS)
            try:
                async for event in call:
                    answer.events.append(event)
                    broke_at = 0.0
                break
            except grpc.aio.AioRpcError as error:
                broke_at = broke_at or time.monotonic()
                if not await self._goes_on(answer, error, broke_at):
                    return
        self._told.answers += 1
        if trouble := answer.trouble():
            self._told.lost.append(f"{self._now()} {trouble}")
        else:
            self._rated.append((key, answer.events[0].message_id))

    async def _goes_on(self, answer: Answer, error: grpc.aio.AioRpcError, broke_at: float) -> bool:
        """Whether the answer is asked for again, or its rest."""
        wait, reason = _details(error)
        if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
            self._told.waited += 1
            await asyncio.sleep(wait or 0.5)
            return True
        if not answer.events:
            self._note(
                f"SendMessage {reason}", late=error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            )
            await asyncio.sleep(0.5)
            return False
        self._told.resumed[reason] += 1
        if time.monotonic() - broke_at > RESUME_SECONDS:
            self._told.lost.append(f"{self._now()} {reason}")
            return False
        await asyncio.sleep(wait or 0.1)
        return True

    async def _call_all(
        self, a_second: float, http: aiohttp.ClientSession, kept: grpc.aio.Channel
    ) -> None:
        """So many begin in each second, however long they take."""
        running: set[asyncio.Task[None]] = set()
        number = 0
        while not self._over.is_set():
            task = asyncio.create_task(self._call(number, http, kept))
            running.add(task)
            task.add_done_callback(running.discard)
            number += 1
            with suppress(TimeoutError):
                async with asyncio.timeout(
                    max(self._began + number / a_second - time.monotonic(), 0)
                ):
                    await self._over.wait()
        await asyncio.gather(*running)

    async def _call(self, number: int, http: aiohttp.ClientSession, kept: grpc.aio.Channel) -> None:
        """In turn: over gRPC on a new connection, over HTTP on kept ones and on a new one, a thumb
        on a kept one.
        """
        key = self._keys[number % len(self._keys)]
        kinds = (self._list, self._page, self._thumb, self._page_anew)
        kind = kinds[number % len(kinds)]
        self._told.calls += 1
        try:
            await (kind(key, kept) if kind == self._thumb else kind(key, http))
        except grpc.aio.AioRpcError as error:
            wait, reason = _details(error)
            if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                await self._call_later(wait, number, http, kept)
            else:
                self._note(
                    f"{kind.__name__} {reason}",
                    late=error.code() is grpc.StatusCode.DEADLINE_EXCEEDED,
                )
        except aiohttp.ClientResponseError as error:
            if error.status == TOO_MANY:
                await self._call_later(
                    float((error.headers or {}).get("retry-after", 0)), number, http, kept
                )
            else:
                self._note(f"{kind.__name__} {error}"[:200], late=error.status == NO_TIME_LEFT)
        except (aiohttp.ClientError, TimeoutError) as error:
            self._note(f"{kind.__name__} {type(error).__name__}: {error}"[:200], late=False)

    def _note(self, said: str, late: bool) -> None:
        (self._told.late if late else self._told.failed).append(f"{self._now()} {said}")

    async def _call_later(
        self, wait: float, number: int, http: aiohttp.ClientSession, kept: grpc.aio.Channel
    ) -> None:
        """Whoever is told to come again in a moment does, over gRPC and over HTTP: that is the
        API's word for a full house.
        """
        self._told.waited += 1
        await asyncio.sleep(wait or 0.5)
        await self._call(number, http, kept)

    async def _list(self, key: str, _http: object) -> None:
        async with self._channel() as channel:
            request = chat_pb2.ListConversationsRequest(page_size=1)
            stub = chat_pb2_grpc.ChatServiceStub(channel)
            await stub.ListConversations(request, metadata=_metadata(key), timeout=CALL_SECONDS)

    async def _page(self, key: str, http: aiohttp.ClientSession) -> None:
        headers, timeout = {"authorization": f"Bearer {key}"}, aiohttp.ClientTimeout(CALL_SECONDS)
        url = f"http://{self._host}:{HTTP_PORT}/api/conversations?pageSize=1"
        async with http.get(url, headers=headers, timeout=timeout, raise_for_status=True) as answer:
            await answer.read()

    async def _page_anew(self, key: str, _http: object) -> None:
        async with aiohttp.ClientSession() as http:
            await self._page(key, http)

    async def _thumb(self, key: str, kept: grpc.aio.Channel) -> None:
        if not self._rated:
            return await self._list(key, kept)
        key, message_id = self._rated.pop(0)
        request = feedback_pb2.SubmitFeedbackRequest(
            message_id=message_id, request_id=str(uuid.uuid4()), thumb=Thumb(up=True)
        )
        stub = feedback_pb2_grpc.FeedbackServiceStub(kept)
        answer = await stub.SubmitFeedback(request, metadata=_metadata(key), timeout=CALL_SECONDS)
        self._told.thumbs.append(answer.event_id)
        return None

    def _now(self) -> str:
        return f"{time.monotonic() - self._began:.1f}s"


def _details(error: grpc.aio.AioRpcError) -> tuple[float, str]:
    """When to come back, and the reason."""
    retry, info = error_details_pb2.RetryInfo(), error_details_pb2.ErrorInfo()
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            for detail in status_pb2.Status.FromString(value).details:
                detail.Unpack(retry)
                detail.Unpack(info)
    reason = info.reason or f"{error.code().name}: {error.details()}"[:160]
    return retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9, reason


def _metadata(key: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {key}"),)


def main() -> None:
    folder, host, streams, calls_a_second = (
        Path(sys.argv[1]),
        sys.argv[2],
        int(sys.argv[3]),
        float(sys.argv[4]),
    )
    told, began = Told(), time.monotonic()
    asyncio.run(Crowd(folder, host, told).run(streams, calls_a_second))
    unfinished = folder / "told.partial"
    unfinished.write_text(json.dumps({**told.__dict__, "seconds": time.monotonic() - began}))
    unfinished.rename(folder / "told.json")


if __name__ == "__main__":
    main()
