"""Process of `GuardedExtractor`: reads pages from stdin and writes texts or verdicts to stdout.

The kernel ends the process at its limits, also inside of native code.
"""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import struct
import sys
import time
from pathlib import Path
from typing import BinaryIO

from training.corpus.document import Document, Origin, Page
from training.corpus.extraction import ExtractionOptions, Extractor, extract

REQUEST = struct.Struct("<IQ")
# Kind, length, and processor time of this process in seconds.
REPLY = struct.Struct("<BQd")
TEXT, VERDICT = 0, 1
READY = b"ready"
# Exit status after a failed allocation of Python.
OUT_OF_MEMORY = 86


def main() -> int:
    """Serve pages until stdin ends; return the exit status."""
    settings = json.loads(sys.argv[1])
    limit = settings["memory_bytes"]
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    options = ExtractionOptions(
        Extractor(settings["extractor"]), settings["main_content"], settings["max_page_bytes"]
    )
    # Output of libraries must not end up between the replies.
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    replies.write(READY)
    replies.flush()
    try:
        _serve(sys.stdin.buffer, replies, options, settings["processor_seconds"])
    except MemoryError:
        return OUT_OF_MEMORY
    except Exception:
        # Native code reports failed allocations as other errors. VmHWM is the peak in KiB.
        status = Path("/proc/self/status").read_text()
        if int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) > (limit >> 10) / 2:
            return OUT_OF_MEMORY
        raise
    return 0


def _serve(
    requests: BinaryIO, replies: BinaryIO, options: ExtractionOptions, seconds: float
) -> None:
    while head := requests.read(REQUEST.size):
        type_length, length = REQUEST.unpack(head)
        content_type = requests.read(type_length).decode()
        page = Page(Origin(""), requests.read(length), content_type)
        # SIGPROF ends the process; processor time does not depend on the load of the machine.
        signal.setitimer(signal.ITIMER_PROF, seconds)
        result = extract(page, options)
        signal.setitimer(signal.ITIMER_PROF, 0)
        if isinstance(result, Document):
            kind, body = TEXT, result.text.encode("utf-8", "replace")
        else:
            kind, body = VERDICT, json.dumps([result.rule, result.value]).encode()
        replies.write(REPLY.pack(kind, len(body), time.process_time()))
        replies.write(body)
        replies.flush()


if __name__ == "__main__":
    sys.exit(main())
