"""What of a conversation the model is given: the newest messages that fit the token budget, and the system message always.

Turns that were never answered, or that the guard refused at the door, are left out: "do it anyway" must not carry a refused
request to the model. Neighbours of one role are joined and a user begins, because Gemma's chat template refuses anything else.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from services.chassis.errors import InvalidArgumentError
from services.session.limits import MAX_TEXT_CHARACTERS
from services.session.message import FinishReason, Message, Role, Said

JOINT = "\n\n"


@dataclass(frozen=True)
class Budget:
    """`tokens` is what the context may take; `overhead_tokens` the template's share of every message."""

    tokens: int
    overhead_tokens: int

    def cost(self, messages: Sequence[Message]) -> int:
        """Tokens of these messages with the template around them."""
        return sum(message.tokens + self.overhead_tokens for message in messages)


@dataclass(frozen=True)
class Selection:
    """Chosen messages, system first, then oldest first; their tokens; how many older ones did not fit."""

    messages: tuple[Message, ...]
    tokens: int
    dropped: int


def select_context(path: Sequence[Message], budget: Budget) -> Selection:
    """Choose from a path, oldest first, that ends with the user's message.

    Raises:
        InvalidArgumentError: the last message alone does not fit beside the system message; limit in tokens.
    """
    heard = _heard(path)
    system = [message for message in heard if message.role is Role.SYSTEM]
    spoken = [message for message in heard if message.role is not Role.SYSTEM]
    room = budget.tokens - budget.cost(system)
    if budget.cost(spoken[-1:]) > room:
        limit = f"{max(0, room - budget.overhead_tokens)} tokens"
        raise InvalidArgumentError(f"text must fit the model's context: {limit}", field="text", limit=limit)
    chosen = _newest(spoken, room, budget)
    messages = (*system, *chosen)
    return Selection(messages, budget.cost(messages), len(spoken) - len(chosen))


def as_said(messages: Sequence[Message]) -> tuple[Said, ...]:
    """The chosen messages as the model gets them: neighbours of one role are one message."""
    said: list[Said] = []
    for message in messages:
        if said and said[-1].role is message.role:
            said[-1] = Said(message.role, said[-1].text + JOINT + message.text)
        else:
            said.append(Said(message.role, message.text))
    return tuple(said)


def _heard(path: Sequence[Message]) -> list[Message]:
    heard: list[Message] = []
    for message in path:
        unheard = not message.text or message.finish_reason is FinishReason.INPUT_BLOCKED
        if message.role is Role.ASSISTANT and unheard:
            if heard and heard[-1].id == message.parent_id and heard[-1].role is Role.USER:
                heard.pop()
        elif message.text:
            heard.append(message)
    return heard


def _newest(spoken: Sequence[Message], room: int, budget: Budget) -> list[Message]:
    chosen: list[Message] = []
    run_role, run_characters = Role.SYSTEM, 0
    for message in reversed(spoken):
        room -= budget.cost([message])
        same = message.role is run_role
        run_role, run_characters = message.role, len(message.text) + (run_characters + len(JOINT) if same else 0)
        if room < 0 or run_characters > MAX_TEXT_CHARACTERS:
            break
        chosen.append(message)
    while chosen[-1].role is Role.ASSISTANT:
        chosen.pop()
    return chosen[::-1]
