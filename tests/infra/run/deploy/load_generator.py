"""Load inside the cluster network during changes: continuous streams and single calls.

Runs in a pod of the services' image: `load_generator.py FOLDER HOST STREAMS CALLS_A_SECOND`. The
folder contains keys.json. The file `began` is created once all streams run, observed.json at the
end. The end starts when the file `over` appears, so no outside connection must last as long.

Calls that a service refused are not repeated. As the API provides, the rest of an interrupted
answer is requested, and a call whose connection broke without an answer is sent again.
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
DETAILS = "grpc-status-details-bin"
TOO_MANY, NO_TIME_LEFT = 429, 504
TURN_SECONDS, CALL_SECONDS = 120.0, 20.0
MAX_TOKENS = 200
# An interrupted answer is lost if its rest stays unavailable for this time.
RESUME_SECONDS = 30.0
# Time limit in case the process that started the load was killed.
MAX_SECONDS = 900.0
ENDS = (chat_pb2.FINISH_REASON_STOP, chat_pb2.FINISH_REASON_LENGTH)


@dataclass
class Observations:
    """Observations.

    `resumed` counts interruptions by reason. `failed` and `lost` contain messages with their times,
    `sent_again` those of calls whose connection broke without an answer. `late` contains calls
    rejected for lack of time.
    """

    answers: int = 0
    calls: int = 0
    thumbs: list[str] = field(default_factory=list)
    running: int = 0
    least_running: int = 0
    resumed: Counter[str] = field(default_factory=Counter)
    waited: int = 0
    late: list[str] = field(default_factory=list)
    sent_again: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)


@dataclass
class Answer:
    """An answer with the events received so far."""

    request_id: str
    events: list[chat_pb2.ChatEvent] = field(default_factory=list)

    def defect(self) -> str:
        """Return the defect of the answer, or "" for consecutive events 1, 2, 3 … until the end."""
        if [event.sequence for event in self.events] != list(range(1, len(self.events) + 1)):
            return "sequence"
        finish = self.events[-1].completed.finish_reason
        return "" if finish in ENDS else f"finish {chat_pb2.FinishReason.Name(finish)}"


class LoadGenerator:
    """Load on a gateway; `host` is the name of its Service."""

    def __init__(self, folder: Path, host: str, observations: Observations) -> None:
        self._folder, self._host, self._observations = folder, host, observations
        self._keys: list[str] = json.loads((folder / "keys.json").read_text())
        self._over = asyncio.Event()
        self._started = time.monotonic()
        self._rated: list[tuple[str, str]] = []

    async def run(self, streams: int, calls_a_second: float) -> None:
        """Run until the end is requested; running answers are read completely."""
        people = [asyncio.create_task(self._chat(number)) for number in range(streams)]
        async with (
            aiohttp.ClientSession() as http,
            grpc.aio.insecure_channel(f"{self._host}:{GRPC_PORT}") as reused,
        ):
            calling = asyncio.create_task(self._call_all(calls_a_second, http, reused))
            watching = asyncio.create_task(self._watch(streams))
            while (
                not (self._folder / "over").exists()
                and time.monotonic() < self._started + MAX_SECONDS
            ):
                await asyncio.sleep(0.5)
            watching.cancel()
            self._over.set()
            await asyncio.gather(calling, *people)

    async def _watch(self, streams: int) -> None:
        """Record the smallest number of running streams after all have started."""
        while self._observations.running < streams:
            await asyncio.sleep(0.1)
        self._observations.least_running = streams
        (self._folder / "began").touch()
        while True:
            self._observations.least_running = min(
                self._observations.least_running, self._observations.running
            )
            await asyncio.sleep(0.1)

    async def _chat(self, number: int) -> None:
        """Request answer after answer. Odd users open a new connection each time."""
        key, channel = self._keys[number % len(self._keys)], self._channel()
        self._observations.running += 1
        while not self._over.is_set():
            if number % 2:
                await channel.close()
                channel = self._channel()
            await self._ask(key, chat_pb2_grpc.ChatServiceStub(channel))
        self._observations.running -= 1
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
                if not await self._continues(answer, error, broke_at):
                    return
        self._observations.answers += 1
        if defect := answer.defect():
            self._observations.lost.append(f"{self._now()} {defect}")
        else:
            self._rated.append((key, answer.events[0].message_id))

    async def _continues(
        self, answer: Answer, error: grpc.aio.AioRpcError, broke_at: float
    ) -> bool:
        """Return True if the answer or its rest is requested again."""
        wait, reason = _details(error)
        if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
            self._observations.waited += 1
            await asyncio.sleep(wait or 0.5)
            return True
        if not answer.events:
            is_gateway_lost = reason == "GATEWAY_LOST" or _is_broken(error)
            if is_gateway_lost and time.monotonic() - broke_at < RESUME_SECONDS:
                # With the same request_id, so that a stored question is not asked twice.
                self._observations.sent_again.append(f"{self._now()} SendMessage {reason}")
                await asyncio.sleep(wait or 0.1)
                return True
            self._record_failure(
                f"SendMessage {reason}", late=error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            )
            await asyncio.sleep(0.5)
            return False
        self._observations.resumed[reason] += 1
        if time.monotonic() - broke_at > RESUME_SECONDS:
            self._observations.lost.append(f"{self._now()} {reason}")
            return False
        await asyncio.sleep(wait or 0.1)
        return True

    async def _call_all(
        self, a_second: float, http: aiohttp.ClientSession, reused: grpc.aio.Channel
    ) -> None:
        """Start calls at a constant rate, independent of their duration."""
        running: set[asyncio.Task[None]] = set()
        number = 0
        while not self._over.is_set():
            task = asyncio.create_task(self._call(number, http, reused))
            running.add(task)
            task.add_done_callback(running.discard)
            number += 1
            with suppress(TimeoutError):
                async with asyncio.timeout(
                    max(self._started + number / a_second - time.monotonic(), 0)
                ):
                    await self._over.wait()
        await asyncio.gather(*running)

    async def _call(
        self,
        number: int,
        http: aiohttp.ClientSession,
        reused: grpc.aio.Channel,
        *,
        is_repeated: bool = False,
    ) -> None:
        """Alternate new and reused connections, gRPC and HTTP, reads and thumbs."""
        key = self._keys[number % len(self._keys)]
        kinds = (self._list, self._page, self._thumb, self._page_on_new_connection)
        kind = kinds[number % len(kinds)]
        self._observations.calls += 1
        try:
            await (kind(key, reused) if kind == self._thumb else kind(key, http))
        except grpc.aio.AioRpcError as error:
            wait, reason = _details(error)
            if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                await self._call_after_delay(wait, number, http, reused)
            elif _is_broken(error) and not is_repeated:
                self._observations.sent_again.append(f"{self._now()} {kind.__name__} {reason}")
                await self._call(number, http, reused, is_repeated=True)
            else:
                self._record_failure(
                    f"{kind.__name__} {reason}",
                    late=error.code() is grpc.StatusCode.DEADLINE_EXCEEDED,
                )
        except aiohttp.ClientResponseError as error:
            if error.status == TOO_MANY:
                await self._call_after_delay(
                    float((error.headers or {}).get("retry-after", 0)), number, http, reused
                )
            else:
                self._record_failure(
                    f"{kind.__name__} {error}"[:200], late=error.status == NO_TIME_LEFT
                )
        except (aiohttp.ClientError, TimeoutError) as error:
            message = f"{kind.__name__} {type(error).__name__}: {error}"[:200]
            if isinstance(error, aiohttp.ClientConnectionError) and not is_repeated:
                self._observations.sent_again.append(f"{self._now()} {message}")
                await self._call(number, http, reused, is_repeated=True)
            else:
                self._record_failure(message, late=False)

    def _record_failure(self, message: str, late: bool) -> None:
        (self._observations.late if late else self._observations.failed).append(
            f"{self._now()} {message}"
        )

    async def _call_after_delay(
        self, wait: float, number: int, http: aiohttp.ClientSession, reused: grpc.aio.Channel
    ) -> None:
        """Repeat a call after the delay that an overloaded server requests."""
        self._observations.waited += 1
        await asyncio.sleep(wait or 0.5)
        await self._call(number, http, reused)

    async def _list(self, key: str, _http: object) -> None:
        async with self._channel() as channel:
            request = chat_pb2.ListConversationsRequest(page_size=1)
            stub = chat_pb2_grpc.ChatServiceStub(channel)
            await stub.ListConversations(request, metadata=_metadata(key), timeout=CALL_SECONDS)

    async def _page(self, key: str, http: aiohttp.ClientSession) -> None:
        headers, timeout = {"authorization": f"Bearer {key}"}, aiohttp.ClientTimeout(CALL_SECONDS)
        url = f"http://{self._host}:{HTTP_PORT}/api/conversations?page_size=1"
        async with http.get(url, headers=headers, timeout=timeout, raise_for_status=True) as answer:
            await answer.read()

    async def _page_on_new_connection(self, key: str, _http: object) -> None:
        async with aiohttp.ClientSession() as http:
            await self._page(key, http)

    async def _thumb(self, key: str, reused: grpc.aio.Channel) -> None:
        if not self._rated:
            return await self._list(key, reused)
        key, message_id = self._rated.pop(0)
        request = feedback_pb2.SubmitFeedbackRequest(
            message_id=message_id, request_id=str(uuid.uuid4()), thumb=Thumb(up=True)
        )
        stub = feedback_pb2_grpc.FeedbackServiceStub(reused)
        answer = await stub.SubmitFeedback(request, metadata=_metadata(key), timeout=CALL_SECONDS)
        self._observations.thumbs.append(answer.event_id)
        return None

    def _now(self) -> str:
        return f"{time.monotonic() - self._started:.1f}s"


def _is_broken(error: grpc.aio.AioRpcError) -> bool:
    """Return True if the connection broke; a refusal of a service has details."""
    details = dict(error.trailing_metadata() or ())
    return error.code() is grpc.StatusCode.UNAVAILABLE and DETAILS not in details


def _details(error: grpc.aio.AioRpcError) -> tuple[float, str]:
    """Return the retry delay and the reason of an error."""
    retry, info = error_details_pb2.RetryInfo(), error_details_pb2.ErrorInfo()
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS and isinstance(value, bytes):
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
    observations, began = Observations(), time.monotonic()
    asyncio.run(LoadGenerator(folder, host, observations).run(streams, calls_a_second))
    unfinished = folder / "observed.partial"
    unfinished.write_text(
        json.dumps({**observations.__dict__, "seconds": time.monotonic() - began})
    )
    unfinished.rename(folder / "observed.json")


if __name__ == "__main__":
    main()
