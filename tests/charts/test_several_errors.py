"""All errors of combinations are reported at once, each as a line of its own."""

import re
from collections.abc import Iterator, Sequence

import pytest

from tests.charts.refused_by_file import BY_FILE, Cases
from tests.charts.rendering import errors, refusal

# An error beside that of every case.
OTHER = "serviceDefaults.settings.lame_duck_seconds=1"
OTHER_ERROR = "serviceDefaults.settings.lame_duck_seconds: "
# Groups of values whose errors depend on each other: one hides another, or two are one error.
SAME = {
    "ray": "training",
    "externalModels": "serving.external",
    "serviceAccount": "objectStore",
    "secrets": "backup",
}
DEPENDENT = {
    "networkPolicies.stores[0].ports": {"database", "kafka", "objectStore"},
    "models.existingClaim": {"backup", "training", "serving.kserve", "serving.vllm"},
    "models.initial": {"training"},
    "models.store": {"serving.kserve", "serving.vllm"},
}


def assigned(setting: str) -> dict[str, str]:
    """Return the paths of a setting with their values; a list is in braces."""
    parts = re.split(r",(?![^{]*})", setting)
    return dict(part.split("=", 1) for part in parts)


def areas(setting: str) -> set[str]:
    """Return the groups of values of a setting, with those that depend on them."""
    found = set[str]()
    for path in assigned(setting).keys() - {"gitops", "serving.mode"}:
        first, second = path.split(".")[:2]
        found.add(
            f"{first}.{second}" if first in ("services", "serving") else SAME.get(first, first)
        )
        found |= set[str]().union(*(more for name, more in DEPENDENT.items() if name in path))
    return found


def combinations(cases: Cases) -> Iterator[list[str]]:
    """Yield the cases in as few groups as possible, each of independent cases."""
    left = list(cases)
    while left:
        group, used, values = list[str](), set[str](), dict[str, str]()
        for case in left:
            given, touched = assigned(cases[case][0]), areas(cases[case][0])
            if not touched & used and {**given, **values} == {**values, **given}:
                group.append(case)
                used |= touched
                values |= given
        yield group
        left = [case for case in left if case not in group]


COMBINATIONS = [
    pytest.param(file, group, id=f"{file}-{index}")
    for file, cases in BY_FILE.items()
    for index, group in enumerate(combinations(cases))
]


def lines_of(words: str, lines: Sequence[str]) -> list[str]:
    return [line for line in lines if all(word in line for word in words.split())]


@pytest.mark.parametrize(
    ("file", "case"), [(file, case) for file, cases in BY_FILE.items() for case in cases]
)
def test_a_single_error_is_one_line(file: str, case: str) -> None:
    setting, words = BY_FILE[file][case]
    found = errors(refusal(file, setting))
    assert len(lines_of(words, found)) == len(found) == 1, found


@pytest.mark.parametrize("helm3", [False, pytest.param(True, marks=pytest.mark.long)])
@pytest.mark.parametrize(("file", "group"), COMBINATIONS)
def test_errors_of_independent_values_are_reported_together(
    file: str, group: list[str], helm3: bool
) -> None:
    cases = [BY_FILE[file][case] for case in group] + [(OTHER, OTHER_ERROR)]
    found = errors(refusal(file, *(setting for setting, _ in cases), helm3=helm3))
    assert [words for _, words in cases if not lines_of(words, found)] == [], found
    assert len(found) == len(cases), found


def test_the_text_of_one_error_stands_alone_and_that_of_several_below_their_number() -> None:
    brokers = "kafka.bootstrap: host:port of the Kafka brokers is required"
    host = "ingress.host: the Ingress needs a host"
    ingress = ("ingress.enabled=true", "ingress.tls=none")
    assert f"): {brokers}\n\n" in refusal("existing-values.yaml", "kafka.bootstrap=")
    output = refusal("existing-values.yaml", *ingress, "kafka.bootstrap=")
    assert f"): 2 errors:\n{brokers}\n{host}\n\n" in output


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        ("database.existingSecret=", "feedback, gateway, generator, review, session"),
        ("serviceDefaults.settings.drain_seconds=9", "serviceDefaults.settings.drain_seconds"),
        (
            "serviceDefaults.keda.enabled=true,services.feedback.keda.enabled=false,gitops=true",
            "serviceDefaults.keda.triggers",
        ),
    ],
)
def test_an_error_of_several_services_is_reported_once(sets: str, words: str) -> None:
    (found,) = errors(refusal("existing-values.yaml", sets))
    assert words in found
