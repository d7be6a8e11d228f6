"""`thumbwheel train chat` on a pseudo-terminal: streaming, Ctrl-C, line editing, end."""

import fcntl
import os
import pty
import select
import shlex
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.training.toys import context_free_model
from training.decoding.arguments import chat_command
from training.decoding.terminal import DIM, PLAIN, PROMPT, Terminal

ROOT = Path(__file__).parents[3]
WAIT_SECONDS = 120.0  # until the test fails; a busy machine needs long for the imports
LIMIT = 2000  # of tokens; the window of the model is 2,048
CTRL_C, CTRL_D, UP = "\x03", "\x04", "\x1b[A"


class Typist:
    """A person at the terminal of a process."""

    def __init__(self, terminal: int) -> None:
        self._terminal = terminal
        self._unread = ""

    def type_in(self, text: str) -> None:
        os.write(self._terminal, text.encode())

    def read_until(self, text: str, repeated: str = "") -> str:
        """Return what appears up to and with `text`; type `repeated` each second until then."""
        end = time.monotonic() + WAIT_SECONDS
        while text not in self._unread:
            assert time.monotonic() < end, f"no {text!r} in {self._unread!r}"
            if select.select([self._terminal], [], [], 1)[0]:
                self._unread += os.read(self._terminal, 1 << 16).decode(errors="replace")
            elif repeated:
                self.type_in(repeated)
        shown, _, self._unread = self._unread.partition(text)
        return shown + text


def begin_session() -> None:
    """Take the terminal, and SIGINT, which background jobs of a shell ignore."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def chat_on_a_terminal(*arguments: str) -> Iterator[tuple[Typist, subprocess.Popen[bytes]]]:
    """Run the command on a new pseudo-terminal, which sends the signals of keys."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "training", "chat", *arguments],
        cwd=ROOT,
        env={**os.environ, "TERM": "dumb", "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=begin_session,
    )
    os.close(theirs)
    try:
        yield Typist(ours), process
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def test_ctrl_c_stops_the_answer_and_keeps_the_chat(tmp_path: Path) -> None:
    model = context_free_model(tmp_path / "model", word="Ġtree")
    options = ("--plain", "--temperature", "0", "--max-tokens", str(LIMIT))
    with chat_on_a_terminal(str(model), *options) as (typist, process):
        assert f"{DIM}loading{PLAIN}" in typist.read_until(PROMPT)
        typist.type_in("good tree\n")
        typist.read_until("good tree\r\n")
        typist.read_until("tree tree")  # while the answer goes on
        typist.type_in(CTRL_C)
        stopped = typist.read_until(PROMPT)
        assert f"{DIM}stopped{PLAIN}" in stopped
        tokens = int(stopped.partition(" tokens in ")[0].rpartition(DIM)[2])
        assert 0 < tokens < LIMIT
        # Without an answer. Python delays a Ctrl-C between the prompt and the wait for a key until
        # the next key.
        typist.read_until("/quit", repeated=CTRL_C)
        typist.type_in("/regenrate\n")
        typist.read_until("did you mean /regenerate?")
        typist.read_until(PROMPT)
        typist.type_in(f"{UP}{UP}\n")  # the question again
        typist.read_until("tree tree")
        typist.type_in(CTRL_C)
        typist.read_until(PROMPT)
        typist.type_in(CTRL_D)
        assert process.wait(WAIT_SECONDS) == 0


@pytest.mark.parametrize(
    ("folder", "typed"), [(".", "'work/my model'"), ("work", "'./my model'"), ("other", None)]
)
def test_command_of_a_chat_can_be_pasted(
    folder: str, typed: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "work" / "my model"
    model.mkdir(parents=True)
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / folder)
    monkeypatch.setattr(sys, "executable", str(tmp_path / ".venv" / "bin" / "python"))
    command = chat_command(model)
    program, *words = shlex.split(command)
    assert words[:2] == ["train", "chat"]
    assert Path(words[2]).resolve() == model
    assert Path(program).resolve() == tmp_path / ".venv" / "bin" / "thumbwheel"
    assert command.endswith(typed or f"'{model}'")
    assert program.startswith(".venv/bin" if folder == "." else str(tmp_path))


def test_control_characters_of_a_model_do_not_reach_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for stream in (sys.stdin, sys.stdout):
        monkeypatch.setattr(stream, "isatty", lambda: True)
    Terminal().write("a\x1b[2Jb\tc\n\r\x9b")
    assert capsys.readouterr().out == "a\ufffd[2Jb\tc\n\ufffd\ufffd"
