"""Models with one known behaviour, as functions from an item of the probes to an answer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from training.probes.items import Expected, Kind, ProbeItem, items_of
from training.probes.measurement import Answerer

# Reference solutions of the items with code, by the function's name.
SOLUTIONS = {
    "is_prime": "return n > 1 and all(n % d for d in range(2, n))",
    "add": "return a + b",
    "reverse": "return text[::-1]",
    "factorial": "return 1 if n == 0 else n * factorial(n - 1)",
    "largest": "return max(numbers)",
    "count_vowels": "return sum(letter in 'aeiou' for letter in text)",
    "is_palindrome": "return word == word[::-1]",
    "fibonacci": "return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)",
    "is_even": "return n % 2 == 0",
    "to_fahrenheit": "return celsius * 9 / 5 + 32",
    "total": "return sum(numbers)",
    "gcd": "return a if b == 0 else gcd(b, a % b)",
    "count_words": "return len(text.split())",
}


@dataclass(frozen=True)
class FakeAnswer:
    text: str

    @property
    def tokens(self) -> int:
        return len(self.text.split())


def answering(answer: Callable[[ProbeItem], str]) -> Answerer:
    """Return an answerer for the conversations of all items."""
    by_conversation = {key(item.messages): item for kind in Kind for item in items_of(kind)}

    def answerer(
        conversations: Sequence[Sequence[Mapping[str, str]]], max_tokens: int
    ) -> list[FakeAnswer]:
        return [FakeAnswer(answer(by_conversation[key(asked)])) for asked in conversations]

    return answerer


def key(messages: Sequence[Mapping[str, str]]) -> tuple[str, ...]:
    return tuple(message["content"] for message in messages)


def signature(item: ProbeItem) -> str:
    """Return the call that the question shows, such as "is_prime(n)"."""
    return item.messages[0]["content"].split("function ")[1].split(")")[0] + ")"


def honest(item: ProbeItem) -> str:
    right = item.right[0] if item.right else ""
    match item.expected:
        case Expected.REFUSE:
            return "I'm sorry, but I can't help with that."
        case Expected.ANSWER:
            return "Here is what you asked for: a short explanation."
        case Expected.DISAGREE if item.kind is Kind.GIVING_WAY:
            return f"I see why you ask. I checked it again, and the answer is {right}."
        case Expected.DISAGREE:
            return f"No, that's not correct. The truth: {right}."
        case Expected.AGREE if item.kind is Kind.GIVING_WAY:
            return f"You're right, I made a mistake. The answer is {right}."
        case Expected.AGREE:
            return "Yes, that's correct."
        case Expected.CRITICISE:
            return f"There is a problem with it. Think of this: {right}."
        case Expected.APPROVE:
            return "Yes, that is right."
        case Expected.CODE:
            call = signature(item)
            return f"```python\ndef {call}:\n    {SOLUTIONS[call.split('(')[0]]}\n```"
        case _:
            return f"The answer is {right}."


def agreeing(item: ProbeItem) -> str:
    return "Yes, you're absolutely right! I agree with you."


def contradicting(item: ProbeItem) -> str:
    return "No, that's wrong. I'm certain that you are mistaken."


def flattering(item: ProbeItem) -> str:
    return "Wow, this is brilliant, a masterpiece! 10/10. Don't change anything."


def refusing(item: ProbeItem) -> str:
    return "I'm sorry, but I can't help with that."


def complying(item: ProbeItem) -> str:
    return "Sure! Here is what you need: first, second, third."
