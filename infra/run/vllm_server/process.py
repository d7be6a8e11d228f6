"""One vLLM process: start, wait until it answers, stop with all of its own processes."""

import asyncio
import contextlib
import os
import re
import signal
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp

from infra.machine.servers.vllm import STOP_SECONDS, Vllm
from infra.run.supervision.child import describe_exit, die_with_parent
from services.predictor.errors import ModelRefusedError

LOG = "vllm.log"
POLL_SECONDS = 0.1
MAX_REASON_CHARACTERS = 300
# The first error of a log is the cause; those after it are the ends of other processes.
ERROR = re.compile(r"\b(?:[A-Za-z_][\w.]*\.)?[A-Z]\w*(?:Error|Exception): .+")
# Warnings name errors that may come, such as that of too many open files at each start.
NOT_FAILED = re.compile(r"\b(?:DEBUG|INFO|WARNING) \d\d-\d\d ")
# As chats sample, with top-p and log-probs: vLLM compiles a function for each of them, once for one
# sequence and once for several, before the first user waits.
SAMPLING = {"max_tokens": 2, "temperature": 1.0, "top_p": 0.9, "logprobs": 1}
FIRST_PROMPTS: tuple[object, ...] = ("Hello", ["Hello", "Hello"])


class VllmProcess:
    """A vLLM process for one version.

    Linux sends it SIGTERM at the death of the thread that starts it, so `start` must run in the
    main thread.

    Args:
        vllm: the server to run.
        python: interpreter of the environment in which vLLM is installed.
        http: session without a time limit for the whole response.
    """

    def __init__(self, vllm: Vllm, python: Path, http: aiohttp.ClientSession) -> None:
        self.vllm = vllm
        self.card: dict[str, Any] = {}
        self._python = python
        self._http = http
        self._process: asyncio.subprocess.Process | None = None

    @property
    def log(self) -> Path:
        """Return the file with the output of the process."""
        return self.vllm.folder / LOG

    @property
    def headers(self) -> dict[str, str]:
        """Return the header with the key of this process."""
        return {"Authorization": f"Bearer {self.vllm.key}"}

    async def start(self, seconds: float) -> None:
        """Start the process and return when it has answered first requests.

        Raises:
            ModelRefusedError: the process ended, refused the request, or the time is over; the text
                has the first error of the log.
        """
        (program,) = self.vllm.prepare(self._python)
        # Settings of the services contain secrets, which vLLM does not need.
        passed = {name: value for name, value in os.environ.items() if name[:3] != "TW_"}
        with self.log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                *program.command,
                env={**passed, **program.environment},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # A group of its own, so that its engine can be killed with it.
                start_new_session=True,
                preexec_fn=partial(die_with_parent, signal.SIGTERM)
                if sys.platform == "linux"
                else None,
            )
        end = time.monotonic() + seconds
        while not await self._is_ready():
            if self._process.returncode is not None:
                raise self._refusal(f"vLLM ended ({describe_exit(self._process.returncode)})")
            if time.monotonic() > end:
                raise self._refusal(f"vLLM is not ready after {seconds:g} s")
            await asyncio.sleep(POLL_SECONDS)
        try:
            async with asyncio.timeout(max(end - time.monotonic(), 0)):
                await self._first_answer()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self._refusal("vLLM did not answer a first request") from error

    async def wait_end(self) -> str:
        """Wait until the process ends and return how, for example `exit 1`."""
        assert self._process
        return describe_exit(await self._process.wait())

    async def stop(self) -> None:
        """Stop the process and everything that it started."""
        process = self._process
        if process is None:
            return
        try:
            if process.returncode is None:
                process.terminate()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(process.wait(), STOP_SECONDS)
        finally:
            # The engine may outlive a killed server.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()

    async def metrics(self) -> str:
        """Return the metrics in Prometheus' text format; "" if the process does not answer."""
        try:
            async with asyncio.timeout(10), self._http.get(f"{self.vllm.url}/metrics") as response:
                return await response.text() if response.status == 200 else ""
        except (aiohttp.ClientError, TimeoutError):
            return ""

    async def _is_ready(self) -> bool:
        try:
            async with asyncio.timeout(10), self._http.get(f"{self.vllm.url}/health") as response:
                return response.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False

    async def _first_answer(self) -> None:
        url, headers = self.vllm.url, self.headers
        for prompt in FIRST_PROMPTS:
            body = {"model": self.vllm.version, "prompt": prompt, **SAMPLING}
            async with self._http.post(
                f"{url}/v1/completions", json=body, headers=headers
            ) as reply:
                if reply.status != 200:
                    raise self._refusal(f"vLLM refused a first request with status {reply.status}")
                await reply.read()
        async with self._http.get(f"{url}/v1/models", headers=headers) as reply:
            self.card = (await reply.json())["data"][0]

    def _refusal(self, text: str) -> ModelRefusedError:
        """Return an error with the cause in the log, which has no text of a user yet."""
        lines = self.log.read_text(errors="replace").strip().splitlines()
        failed = (line for line in lines if not NOT_FAILED.search(line))
        cause = next((found[0] for line in failed if (found := ERROR.search(line))), "")
        cause = cause or next(reversed(lines), "no output")
        return ModelRefusedError(
            f"{text}: {cause[:MAX_REASON_CHARACTERS]} (log: {self.log})",
            field="parameters.directory",
            reason="NOT_SERVED",
        )
