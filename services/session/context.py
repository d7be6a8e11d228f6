"""What of a conversation the model is given: the newest messages that fit the token budget, and the
system message always.

Turns that were never answered, or that the guard refused at the door, are left out: "do it anyway"
must not carry a refused request to the model. Neighbours of one role are joined and a user begins,
because Gemma's chat template refuses anything else.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from services.chassis.errors import InvalidArgumentError
from services.session.branch import Branch
from services.session.limits import MAX_TEXT_CHARACTERS
from services.session.message import FinishReason, Message, Role, Said

JOINT = "\n\n"


@dataclass(frozen=True)
class Budget:
    """`tokens` is what the context may take; `overhead_tokens` the template's share of every
    message.
    """

    tokens: int
    overhead_tokens: int

    def cost(self, messages: Sequence[Message]) -> int:
        """Tokens of these messages with the template around them."""
        return sum(message.tokens + self.overhead_tokens for message in messages)


@dataclass(frozen=True)
class Selection:
    """Chosen messages, system first, then oldest first; their tokens; if some did not fit, how many
    are above the oldest.
    """

    messages: tuple[Message, ...]
    tokens: int
    dropped: int


def select_context(branch: Branch, budget: Budget) -> Selection:
    """Choose from a branch that ends with the user's message; it is read no further than the
    context goes.

    Raises:
        InvalidArgumentError: the last message alone does not fit beside the system message; limit
            in tokens.
    """
    system = [message for message in branch.pinned if message.role is Role.SYSTEM]
    room = budget.tokens - budget.cost(system)
    if budget.cost(branch.newest[-1:]) > room:
        limit = f"{max(0, room - budget.overhead_tokens)} tokens"
        raise InvalidArgumentError(
            f"text must fit the model's context: {limit}", field="text", limit=limit
        )
    chosen, all_fit = _newest(_spoken(branch.upwards()), room, budget)
    above = chosen[0].depth - sum(message.position < chosen[0].position for message in system)
    messages = (*system, *chosen)
    return Selection(messages, budget.cost(messages), 0 if all_fit else above)


def as_said(messages: Sequence[Message]) -> tuple[Said, ...]:
    """The chosen messages as the model gets them: neighbours of one role are one message."""
    said: list[Said] = []
    for message in messages:
        if said and said[-1].role is message.role:
            said[-1] = Said(message.role, said[-1].text + JOINT + message.text)
        else:
            said.append(Said(message.role, message.text))
    return tuple(said)


def _spoken(upwards: Iterable[Message]) -> Iterator[Message]:
    """Newest first: without system messages, and without turns that were never answered or that the
    guard refused at the door.
    """
    unheard = ""
    for message in upwards:
        if message.role is Role.ASSISTANT and (
            not message.text or message.finish_reason is FinishReason.INPUT_BLOCKED
        ):
            unheard = message.parent_id
        elif message.text and message.role is not Role.SYSTEM and message.id != unheard:
            yield message


def _newest(spoken: Iterable[Message], room: int, budget: Budget) -> tuple[list[Message], bool]:
    """Those that fit, oldest first, and whether these are all."""
    chosen: list[Message] = []
    all_fit = True
    run_role, run_characters = Role.SYSTEM, 0
    for message in spoken:
        room -= budget.cost([message])
        same = message.role is run_role
        run_role, run_characters = (
            message.role,
            len(message.text) + (run_characters + len(JOINT) if same else 0),
        )
        if room < 0 or run_characters > MAX_TEXT_CHARACTERS:
            all_fit = False
            break
        chosen.append(message)
    while chosen[-1].role is Role.ASSISTANT:
        chosen.pop()
    return chosen[::-1], all_fit
