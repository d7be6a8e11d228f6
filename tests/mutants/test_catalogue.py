"""Every mutant must apply to the current code."""

from pathlib import Path

import pytest

from tests.mutants import planting
from tests.mutants.catalogue import MUTANTS, TWENTY
from tests.mutants.planting import DoesNotApply, Mutant, Verdict, mutated


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_applies_exactly_once_and_compiles(mutant: Mutant) -> None:
    assert mutant.before != mutant.after
    compile(mutated(mutant), mutant.file, "exec")
    for test in mutant.tests:
        assert (planting.ROOT / test).is_file()


def test_mutant_names_are_distinct_and_the_first_twenty_are_numbered() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
    assert [mutant.name[:2] for mutant in TWENTY] == [f"{number:02}" for number in range(1, 21)]


def test_code_found_twice_or_never_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text("a = 1\nb = 1\n")
    for before in ("1", "2"):
        with pytest.raises(DoesNotApply):
            mutated(Mutant("x", "code.py", before, "3", ()), tmp_path)
    assert mutated(Mutant("x", "code.py", "a = 1", "a = 3", ()), tmp_path) == "a = 3\nb = 1\n"


def test_escaped_and_caught_equivalent_mutants_are_unexpected() -> None:
    live, same = (
        Mutant("x", "f", "a", "b", ()),
        Mutant("y", "f", "a", "b", (), equivalent="both are a"),
    )
    assert [Verdict(m, c).as_expected for m in (live, same) for c in ("", "test_x")] == [
        False,
        True,
        True,
        False,
    ]
    assert "ESCAPED" in Verdict(live, "").text()
