"""Every executable command block of the operating page is run by a test."""

from pathlib import Path

from tests.infra.run.deploy import page


def test_every_executable_block_is_run_by_a_test() -> None:
    journeys = "".join(file.read_text() for file in Path(__file__).parent.glob("test_*.py"))
    assert len(page.blocks()) >= 4
    assert [title for title in page.blocks() if f'"{title}"' not in journeys] == []
