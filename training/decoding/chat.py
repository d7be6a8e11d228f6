"""Implementation of `thumbwheel train chat`: a conversation with one model, or with two at once."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from durable_files.json_lines import append_lines
from training.decoding.config import DecodingError, Rules, Task, read_presets
from training.decoding.conversation import Answer, ConversingModel, Finish
from training.decoding.prompts import Prompts
from training.decoding.terminal import Terminal
from training.errors import DetailedError, did_you_mean, unknown_choice
from training.runtime.machine import use_device
from training.runtime.paths import describe_os_error

COMMAND = "/"  # begins a command; doubled, it begins a question


@dataclass
class Turn:
    """A question with the answer of each model; `is_saved` is set by /save."""

    question: str
    answers: list[Answer]
    is_saved: bool = False


def converse(
    options: argparse.Namespace,
    rules: Rules,
    directories: Mapping[str, Path],
    prompts: Mapping[str, tuple[Prompts, str]],
    terminal: Terminal,
) -> int:
    """Answer the questions of standard input until its end or /quit.

    Args:
        directories, prompts: of the models by label; prompts as `open_prompts` returns them.

    Raises:
        DecodingError, ChatError, ConfigError: the device or a model is unusable; without a terminal
            also a question or command.
    """
    use_device(options.device)
    models = {
        label: ConversingModel(directory, *prompts[label], options.max_tokens)
        for label, directory in directories.items()
    }
    session = ChatSession(models, rules, options.seed, terminal)
    if options.system is not None:
        session.set_system(options.system)
    for label, model in models.items():
        if model.plain_because:
            terminal.note(f"{label}: each line is a text to continue ({model.plain_because})")
        terminal.write_dim(
            f"{label}: loaded in {model.seconds:.1f} s, window of {model.window} tokens"
        )
    terminal.write_dim("/help lists the commands; Ctrl-C stops an answer, Ctrl-D ends the chat")
    while not session.is_over:
        try:
            session.step()
        except KeyboardInterrupt:
            if not terminal.is_interactive:
                raise
            terminal.note("\nCtrl-D or /quit ends the chat")
        except DetailedError as error:
            if not terminal.is_interactive:
                raise
            terminal.note(str(error))
    return 0


class ChatSession:
    """Conversation of a person with one or more models, each with its own answers as history.

    Answer number k of the session samples with seed + k, and all models with the same seed, so
    equal inputs give equal answers.
    """

    def __init__(
        self, models: dict[str, ConversingModel], rules: Rules, seed: int, terminal: Terminal
    ) -> None:
        self._models, self._rules, self._terminal = models, rules, terminal
        self._seed, self._system = seed, ""
        self._turns: list[Turn] = []
        self.is_over = False

    def step(self) -> None:
        """Read and answer a question, or run a command.

        Raises:
            DetailedError: the question cannot be answered, or the command is wrong.
        """
        line = self._terminal.read()
        if line is None:
            self.is_over = True
        elif line.startswith(COMMAND) and not line.startswith(COMMAND * 2):
            self._run(line[1:])
        elif line.strip():
            question = line.removeprefix(COMMAND)
            self._turns.append(self._answered(question, self._turns))

    def set_system(self, text: str) -> None:
        """Set the system message of the following answers; "" removes it.

        Raises:
            DecodingError: no model has a chat template.
            ChatError: a template takes no system message.
        """
        chatting = [model for model in self._models.values() if not model.plain_because]
        if text and not chatting:
            raise DecodingError(
                "system: a text to continue has no system message",
                field="system",
                reason="UNSUPPORTED",
            )
        for model in chatting if text else ():
            model.check_system(text)
        self._system = text

    def _run(self, line: str) -> None:
        """Run a command with its argument."""
        name, _, argument = line.partition(" ")
        argument = argument.strip()
        if name not in COMMANDS:
            known = [COMMAND + command for command in COMMANDS]
            raise DecodingError(
                f"{COMMAND}{name}: unknown command{did_you_mean(COMMAND + name, known)} "
                "(/help lists all; // begins a question)",
                field="command",
                reason="UNKNOWN",
                limit=", ".join(known),
            )
        command = COMMANDS[name]
        if argument and not command.argument:
            raise DecodingError(
                f"/{name}: takes no argument, not {argument!r}", field=name, reason="UNSUPPORTED"
            )
        command.run(self, argument)

    def _answered(self, question: str, before: Sequence[Turn]) -> Turn:
        """Let each model answer, and return the turn."""
        turn, seed = Turn(question, []), self._seed
        self._seed += 1
        for number, (label, model) in enumerate(self._models.items()):
            if len(self._models) > 1:
                self._terminal.write(f"{label}: ")
            history = [(turn.question, turn.answers[number].text) for turn in before]
            context = model.context(self._system, history, question)
            try:
                with self._terminal.stoppable() as is_stopped:
                    answer = model.answer(
                        context, self._rules, seed, self._terminal.write, is_stopped
                    )
            finally:
                self._terminal.write("\n")
            self._note(answer, model)
            turn.answers.append(answer)
        return turn

    def _note(self, answer: Answer, model: ConversingModel) -> None:
        """Write how the answer ended, and its speed."""
        if answer.dropped:
            self._terminal.note(
                f"the context is full: the answer was given without the {answer.dropped} oldest "
                "messages"
            )
        if answer.finish is Finish.LIMIT:
            self._terminal.note(f"the answer was cut at {model.max_tokens} tokens (--max-tokens)")
        if answer.finish is Finish.STOPPED:
            self._terminal.note("stopped")
        self._terminal.write_dim(
            f"{answer.tokens} tokens in {answer.seconds:.1f} s, "
            f"{answer.tokens / answer.seconds:.0f} tokens/s"
        )

    def show_help(self, _: str) -> None:
        """List the commands with their arguments."""
        for name, command in COMMANDS.items():
            typed = f"{COMMAND}{name} {command.argument}"
            self._terminal.note(f"{typed:<16} {command.purpose}")
        self._terminal.note("A \\ at the end of a line continues it on the next line.")

    def begin(self, _: str) -> None:
        """Forget the conversation so far."""
        self._turns.clear()

    def undo(self, _: str) -> None:
        """Remove the last question and its answers."""
        self._last("undo")
        self._turns.pop()

    def regenerate(self, _: str) -> None:
        """Answer the last question again with the next seed."""
        last = self._last("regenerate")
        self._turns[-1] = self._answered(last.question, self._turns[:-1])

    def set_preset(self, name: str) -> None:
        """Use the sampling parameters of a task."""
        presets = read_presets()
        if name not in list(Task):
            raise unknown_choice("preset", name, Task)
        self._rules = presets[Task(name)]
        self._terminal.note(
            f"preset {name}: temperature {self._rules.temperature:g}, top_p {self._rules.top_p:g}"
        )

    def save(self, name: str) -> None:
        """Append the complete answers of the first model, unless saved before."""
        if not name:
            raise DecodingError("save: needs a file", field="save", reason="EMPTY", limit="a file")
        path = Path(name).expanduser()
        new = [turn for turn in self._turns if not turn.is_saved]
        kept = [turn for turn in new if turn.answers[0].is_complete]
        try:
            path.parent.stat()  # a folder with a misspelled name is not created
            append_lines(path, [turn.answers[0].row for turn in kept])
        except OSError as error:
            raise DecodingError(
                f"save: {describe_os_error(error, [path])}", field="save", reason="UNWRITABLE"
            ) from error
        for turn in kept:
            turn.is_saved = True
        left_out = len(new) - len(kept)
        self._terminal.note(
            f"{len(kept)} rows appended to {path}"
            + (f", {left_out} unfinished or empty answers left out" if left_out else "")
        )

    def end(self, _: str) -> None:
        """End the chat after this command."""
        self.is_over = True

    def _last(self, command: str) -> Turn:
        """Return the last turn.

        Raises:
            DecodingError: there is none.
        """
        if not self._turns:
            raise DecodingError(
                f"{command}: no question has been asked", field=command, reason="EMPTY"
            )
        return self._turns[-1]


@dataclass(frozen=True)
class Command:
    """A command of a chat; `argument` is its name in the help, "" for none."""

    argument: str
    purpose: str
    run: Callable[[ChatSession, str], None]


COMMANDS: Mapping[str, Command] = {
    "help": Command("", "list the commands", ChatSession.show_help),
    "new": Command("", "begin a new conversation", ChatSession.begin),
    "undo": Command("", "remove the last question and its answer", ChatSession.undo),
    "regenerate": Command(
        "", "answer the last question again, with other random numbers", ChatSession.regenerate
    ),
    "preset": Command(
        "NAME", f"sampling parameters of a task: {', '.join(Task)}", ChatSession.set_preset
    ),
    "system": Command(
        "TEXT", "set the system message; without TEXT remove it", ChatSession.set_system
    ),
    "save": Command(
        "FILE", "append questions and complete answers as rows for `train sft`", ChatSession.save
    ),
    "quit": Command("", "end the chat, as Ctrl-D does", ChatSession.end),
}
