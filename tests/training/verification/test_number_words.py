"""Answers in English number words are judged like digits; similar words are no answers."""

import pytest

from training.verification.checks import Mathematics, Outcome
from training.verification.free_text import judge_text, last_number
from training.verification.number_words import in_digits

RIGHT = [
    ("4", "The answer is four."), ("4", "2+2 equals 4."), ("4", "Four."), ("4", "four"),
    ("4", "**Four**"), ("4", "The answer is **four**."), ("4", "2 + 2 is four."),
    ("4", "2 + 2 equals four."), ("4", "2+2 makes four apples in total."),
    ("4", "Two and two make four."), ("4", "The sum of two and two is four, of course."),
    ("4", "Answer: four apples"), ("4", "The answer is four (4)."), ("4", "\\boxed{four}"),
    ("4", "4. Hence the two sides are equal."), ("4", "It is 4, and that one is right."),
    ("4", "4 is one of them."), ("4", "The result is 4, which is the only one."),
    ("4", "4 is the smallest one."), ("4", "There are 4, each one of them red."),
    ("4", "4 is one option."), ("4", "Two numbers are added. The result is 4."), ("0", "Zero."),
    ("1", "The answer is one."), ("1", "5 - 4 equals one."), ("1", "One."),
    ("1", "There is one apple."), ("21", "The answer is twenty-one."), ("21", "It is twenty one."),
    ("105", "It is one hundred and five."), ("105", "a hundred five"), ("1200", "twelve hundred"),
    ("2024", "The answer is two thousand and twenty-four."),
    ("3500000", "three million, five hundred thousand"), ("12", "The answer is a dozen."),
    ("12", "3 times 4 is a dozen."), ("-3", "The answer is minus three."),
    ("-3", "It is negative three."), ("-3", "2 minus 5 is minus 3."),
    ("-3", "The answer is minus 3."), ("2", "Five minus three is two."),
    ("1/2", "The answer is one half."), ("1/2", "The answer is a half."),
    ("2/3", "It is two-thirds."), ("0.75", "three quarters"), ("3.5", "It is three point five."),
    ("3.5", "The answer is three and a half."), ("0.05", "zero point zero five"),
    ("0.5", "The answer is fifty percent."),
    ("500", "It lies between one hundred and five hundred.\nAnswer: five hundred"),
]  # fmt: skip
NOT_RIGHT = [
    ("4", "It's 22."), ("4", "Math is hard."), ("4", "The answer is five."), ("4", "Forty."),
    ("4", "The answer is four or five."), ("5", "The answer is four or five."),
    ("4", "The answer is twenty-four."), ("4", "fourteen"), ("4", "The answer is four hundred."),
    ("4", "A four-leaf clover."), ("4", "It is minus four."), ("-4", "It is four."),
    ("1", "It is one of them."), ("1", "That one."), ("1", "I like this one."),
    ("1", "No one knows."), ("1", "One can see that it is 4."), ("1", "4 is the only one."),
    ("1", "4 is one option."), ("1", "Someone said so."),
    ("1", "One's guess is as good as another's."), ("2", "4. Hence the two sides are equal."),
    ("2", "Two numbers are added. The result is 4."), ("12", "About a dozen."),
    ("12", "There are dozens."), ("12", "half a dozen"), ("12", "a dozen or so"),
    ("12", "The answer is two dozen."), ("20", "The answer is twenty-one."),
    ("100", "It is one hundred and five."),
    ("105", "It lies between one hundred and five hundred."), ("1", "The answer is one half."),
    ("3", "It is three point five."), ("5", "It is three point five."),
    ("3", "2 minus 5 is minus 3."), ("3", "The answer is minus three."), ("3", "It is minus 3."),
    ("7", "two five"), ("25", "two five"), ("4", "four five"),
    ("4", "The answer is four plus zero."), ("2003000000", "two thousand three million"),
    ("10", "Often."), ("1", "The first."), ("3", "It is the third."), ("1000", "Thousands."),
    ("4", "fourth"),
]  # fmt: skip


@pytest.mark.parametrize(("expected", "response"), RIGHT)
def test_right_answer_in_words_is_right(expected: str, response: str) -> None:
    assert judge_text(Mathematics(expected), response).outcome is Outcome.RIGHT


@pytest.mark.parametrize(("expected", "response"), NOT_RIGHT)
def test_wrong_answer_in_words_has_no_reward(expected: str, response: str) -> None:
    assert judge_text(Mathematics(expected), response).reward == 0


def test_number_words_become_digits_and_pronouns_stay() -> None:
    assert in_digits("two thousand and twenty-four") == "2024"
    assert in_digits("between one hundred and five hundred") == "between 100 and 500"
    assert in_digits("one of them, that one, no one") == "one of them, that one, no one"
    assert in_digits("two-digit numbers") == "two-digit numbers"


@pytest.mark.parametrize(
    "text",
    ["nine million " * 1_500, "one point " + "one " * 5_000, "minus " * 3_000, "and a " * 3_000],
)
def test_last_number_of_adversarial_text_is_found_or_none(text: str) -> None:
    assert last_number(text) in ("9000000", "1", None)
