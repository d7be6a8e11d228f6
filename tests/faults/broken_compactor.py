"""The command `compact` with a fault.

`python -m tests.faults.broken_compactor SIGNAL STEP TIME` sends the signal to itself at the TIMEth
pass through the step. SIGKILL ends the process, SIGSTOP freezes it until SIGCONT.
"""

import os
import signal
import sys
from typing import Any

from services.feedback import __main__ as service
from services.feedback import commands
from services.feedback.compaction.compaction import Compaction, CompactionStep


def main(name: str, step: str, times: int) -> int:
    """Install the fault, then run the command."""
    left = [times]

    def at(reached: CompactionStep) -> None:
        left[0] -= reached == step
        if reached == step and not left[0]:
            os.kill(os.getpid(), signal.Signals[name])

    class BrokenCompaction(Compaction):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self._on_step = at

    setattr(commands, "Compaction", BrokenCompaction)  # noqa: B010
    sys.argv[1:] = ["compact"]
    return service.main()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
