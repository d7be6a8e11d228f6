"""The operating page's commands that say that they are run: each is, by a journey."""

from pathlib import Path

from tests.infra.deploy import page


def test_every_block_that_says_so_is_run_by_a_journey() -> None:
    journeys = "".join(file.read_text() for file in Path(__file__).parent.glob("test_*.py"))
    assert len(page.blocks()) >= 4
    assert [title for title in page.blocks() if f'"{title}"' not in journeys] == []
