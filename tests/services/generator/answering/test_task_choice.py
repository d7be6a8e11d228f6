"""The task of a message, one example for each row."""

import pytest

from services.contracts.chat import Task
from services.generator.answering.task_choice import BEGINNING_CHARACTERS, choose_task

CODE = """
Write a Python function that reverses a list.
fix this function
Why does this raise a TypeError? ```print(1 + "1")```
How do I write a loop in bash?
def add(a, b): return a + b
Please refactor the code below.
I get a segmentation fault when I free the list.
select name from users where age > 3
Write unit tests for my parser.
Write a program that prints the first ten primes.
What does this regex class [a-z] match?
"""
QUESTION_ANSWERING = """
What is the capital of France?
capital of France?
What is photosynthesis?
Explain photosynthesis.
How do I learn Python? It's very hard.
What is 7 times 8?
Who wrote the poem The Raven?
What is a haiku?
How do I write a good story?
Give me a summary of the novel Emma.
Tell me about the story of Troy.
Is a whale a fish?
Can you explain how tides work?
List three tips for sleeping better.
Is there a class struggle (in short)?
Translate "good morning" into French.
"""
CREATIVE = """
Write a short poem about the sea.
Tell me a story about a robot.
tell me a joke
Another verse, please.
A limerick about tea.
Can you make up a song for my cat?
Continue the story.
Once upon a time there was a fox
Write a love letter in the style of Jane Austen.
Compose a haiku.
"""
CHAT = """
hello
Hi! How are you?
Who are you?
Thanks a lot.
I feel tired today.
Make it shorter.
Can you help me?
Write a training program for runners.
Import tariffs are in the news again.
Give me three tips.
...
"""
TABLE = [
    (line, task)
    for task, lines in (
        (Task.CODE, CODE),
        (Task.QUESTION_ANSWERING, QUESTION_ANSWERING),
        (Task.CREATIVE, CREATIVE),
        (Task.CHAT, CHAT),
    )
    for line in lines.strip().splitlines()
]


@pytest.mark.parametrize(("text", "task"), TABLE)
def test_the_task_follows_from_the_message(text: str, task: Task) -> None:
    assert choose_task(text) is task


def test_a_long_text_is_classified_by_its_beginning() -> None:
    long = "What is this? " + "so " * BEGINNING_CHARACTERS
    assert (
        choose_task(long + "Write a Python function. Tell me a story.") is Task.QUESTION_ANSWERING
    )
    assert choose_task(long + "```print(1)```") is Task.CODE
