"""Every item of the reference checklist names existing tests."""

import ast

import pytest

from tests.training.suites import CHECKLIST, HERE, ROOT, SECONDS, SUITES


@pytest.mark.parametrize("detail", CHECKLIST)
def test_every_detail_has_its_tests(detail: str) -> None:
    assert CHECKLIST[detail]
    for node in CHECKLIST[detail]:
        path, _, name = node.partition("::")
        tree = ast.parse((ROOT / HERE / path).read_text())
        assert name in {found.name for found in tree.body if isinstance(found, ast.FunctionDef)}, (
            node
        )


def test_suites_are_files_and_have_limits() -> None:
    assert SUITES.keys() == SECONDS.keys()
    assert all((ROOT / HERE / path).is_file() for paths in SUITES.values() for path in paths)
