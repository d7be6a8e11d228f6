"""What is evaluated offline is what is served: both tables, and the limits, are the same."""

from dataclasses import replace

from services.generator import presets as served
from training.decoding import presets, rules, tasks, text
from training.decoding.rules import Rules


def test_presets_are_those_of_the_generator() -> None:
    assert [str(task) for task in presets.Task] == [str(task) for task in served.Task]
    for task in presets.Task:
        theirs = served.PRESETS[served.Task(task)]
        assert presets.PRESETS[task] == replace(Rules(), temperature=theirs.temperature, top_p=theirs.top_p)


def test_limits_are_those_of_the_generator() -> None:
    ours = (tasks.MAX_TOKENS, rules.MAX_TEMPERATURE, rules.GREEDY_BELOW, text.MAX_STOPS, text.MAX_STOP_CHARACTERS)
    assert ours == (
        served.MAX_TOKENS,
        served.MAX_TEMPERATURE,
        served.GREEDY_BELOW,
        served.MAX_STOPS,
        served.MAX_STOP_CHARACTERS,
    )
