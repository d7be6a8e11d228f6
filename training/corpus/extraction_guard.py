"""Extraction in a child process, so that a page can neither hang nor end the worker.

Measured on resiliparse 2.0: 59 KB of nested <font> elements take 3.4 GB of memory, 1 MB of
attributes 24 seconds.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import subprocess
import sys
from typing import IO, Self, cast

from training.corpus.document import CorpusError, Document, Page, Stage, Verdict
from training.corpus.extraction import ExtractionOptions
from training.corpus.extraction_process import OUT_OF_MEMORY, READY, REPLY, REQUEST, VERDICT

# A page of 5 MiB takes 1 s, in the worst measured form of valid markup 5 s.
PROCESSOR_SECONDS = 10.0
# Against a process that waits without working; no decision depends on it otherwise.
WALL_SECONDS = 600.0
MEMORY_BYTES = 1536 << 20
MAX_CONTENT_TYPE = 1000


class GuardedExtractor:
    """Step like `extract` with limits on processor time and memory per page.

    The process starts with the first page and again after a page that ended it. Use in a single
    thread, as a context manager.

    Args:
        processor_seconds: limit per page.
        memory_bytes: limit of address space of the process.
    """

    def __init__(
        self,
        options: ExtractionOptions | None = None,
        processor_seconds: float = PROCESSOR_SECONDS,
        memory_bytes: int = MEMORY_BYTES,
    ) -> None:
        self._options = options or ExtractionOptions()
        self._processor_seconds = processor_seconds
        self._memory_bytes = memory_bytes
        self._process: subprocess.Popen[bytes] | None = None
        self._current_seconds = self._ended_seconds = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process; a later page starts another one."""
        self._ended_seconds, self._current_seconds = self.seconds, 0.0
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    @property
    def seconds(self) -> float:
        """Return the processor time of all processes so far, with their starts."""
        return self._ended_seconds + self._current_seconds

    def __call__(self, page: Page) -> Document | Verdict:
        """Return the text of a page, or the reason why there is none.

        Raises:
            CorpusError: the process does not start.
        """
        if (size := len(page.content)) > self._options.max_page_bytes:
            # Checked here as well, so that the page need not be sent.
            limit = self._options.max_page_bytes
            return Verdict(Stage.EXTRACTION, "page size", f"{size} bytes (at most {limit})")
        process = self._process or self._start()
        content_type = page.content_type[:MAX_CONTENT_TYPE].encode("utf-8", "replace")
        requests = cast(IO[bytes], process.stdin)
        try:
            requests.write(REQUEST.pack(len(content_type), len(page.content)))
            requests.write(content_type)
            requests.write(page.content)
            requests.flush()
            kind, length, seconds = REPLY.unpack(self._read(process, REPLY.size))
            body = self._read(process, length)
        except (BrokenPipeError, EOFError):
            return self._ended(process)
        self._current_seconds = seconds
        if kind == VERDICT:
            rule, value = json.loads(body)
            return Verdict(Stage.EXTRACTION, rule, value)
        return Document(page.origin, body.decode())

    def _start(self) -> subprocess.Popen[bytes]:
        settings = {
            "extractor": self._options.extractor,
            "main_content": self._options.main_content,
            "max_page_bytes": self._options.max_page_bytes,
            "processor_seconds": self._processor_seconds,
            "memory_bytes": self._memory_bytes,
        }
        process = subprocess.Popen(  # noqa: S603  # our own module
            [sys.executable, "-m", "training.corpus.extraction_process", json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        self._process = process
        try:
            if self._read(process, len(READY)) == READY:
                return process
        except EOFError:
            pass
        status = process.wait()
        self.close()
        raise CorpusError(
            f"extraction: its process ended at the start with status {status}",
            field="extraction",
            reason="UNAVAILABLE",
        )

    def _read(self, process: subprocess.Popen[bytes], length: int) -> bytes:
        """Read a part of a reply.

        Raises:
            EOFError: the process ended, or was ended because it does not answer.
        """
        replies = cast(IO[bytes], process.stdout)
        poll = select.poll()
        poll.register(replies, select.POLLIN)
        parts = []
        while length:
            if not poll.poll(WALL_SECONDS * 1000):
                process.kill()
                raise EOFError
            part = os.read(replies.fileno(), min(length, 1 << 20))
            if not part:
                raise EOFError
            parts.append(part)
            length -= len(part)
        return b"".join(parts)

    def _ended(self, process: subprocess.Popen[bytes]) -> Verdict:
        """Return the verdict on the page that ended the process."""
        _, code, usage = os.wait4(process.pid, 0)
        status = process.returncode = os.waitstatus_to_exitcode(code)
        self._current_seconds = usage.ru_utime + usage.ru_stime
        self.close()
        if status == -signal.SIGPROF:
            return Verdict(
                Stage.EXTRACTION, "extraction time", f"above {self._processor_seconds:g} s"
            )
        # After a failed allocation native code aborts or uses a null pointer. The peak of a child
        # is at least that of its parent when it started, which says nothing of the page.
        own = resource.getrusage(resource.RUSAGE_SELF)
        is_large = usage.ru_maxrss > max(own.ru_maxrss, (self._memory_bytes >> 10) / 2)
        if status == OUT_OF_MEMORY or is_large:
            mebibytes = self._memory_bytes >> 20
            return Verdict(Stage.EXTRACTION, "extraction memory", f"above {mebibytes} MiB")
        return Verdict(Stage.EXTRACTION, "extraction crash", f"status {status}")
