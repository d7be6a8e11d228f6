"""Choice of segments to merge: small segments grow, full and new segments stay."""

from services.feedback.compaction.runs import Run, RunLimits, choose_runs
from services.feedback.lake.readable_segments import ReadableSegment

LIMITS = RunLimits(1_000, 1_000_000)
NOW = 100


def segment(sequence: int, rows: int, commit_us: int = 1) -> ReadableSegment:
    return ReadableSegment(
        "feedback", sequence, sequence, "t", 0, 0, 1, "k", "", rows, 0, 0, 0, 0, 0, None, commit_us
    )


def cover(first: int, last: int, rows: int, size: int = 0) -> ReadableSegment:
    return ReadableSegment(
        "feedback", first, last, "", 0, 0, 0, "k", "", rows, 0, 0, 0, 0, size, 1, 1
    )


def runs(*items: ReadableSegment, suspects: tuple[int, ...] = ()) -> list[tuple[list[int], bool]]:
    """Return the last sequences of each run, and its merge flag."""

    def plain(run: Run) -> tuple[list[int], bool]:
        return [item.sequence for item in run.items], run.merge

    return [
        plain(run)
        for run in choose_runs(items, LIMITS, NOW, lambda item: item.sequence in suspects)
    ]


def test_small_neighbours_are_merged_up_to_the_limit() -> None:
    assert runs(*(segment(n, 300) for n in range(1, 8))) == [
        ([1, 2, 3], True),
        ([4, 5, 6], True),
        ([7], True),
    ]


def test_a_single_segment_is_compacted_but_a_compacted_one_is_not() -> None:
    assert runs(segment(1, 10)) == [([1], True)]
    assert runs(cover(1, 3, 10)) == []


def test_a_compacted_segment_waits_for_successors_of_equal_size() -> None:
    assert runs(cover(1, 9, 100), segment(10, 99)) == [([10], True)]
    assert runs(cover(1, 9, 100), cover(10, 10, 99), segment(11, 1)) == [([9, 10, 11], True)]
    assert runs(cover(1, 9, 100), cover(10, 10, 40), segment(11, 40)) == [([10, 11], True)]


def test_a_full_segment_stays_and_separates_its_neighbours() -> None:
    full = [cover(2, 2, 500), cover(2, 2, 3, size=500_000)]
    assert [runs(segment(1, 1), one, segment(3, 1)) for one in full] == [
        [([1], True), ([3], True)]
    ] * 2


def test_recent_segments_form_no_run() -> None:
    assert runs(segment(1, 1), segment(2, 1), segment(3, 1, commit_us=NOW + 1)) == [([1, 2], True)]


def test_suspect_segments_are_checked_at_any_size_and_age() -> None:
    items = [cover(1, 1, 900), cover(2, 2, 50), segment(3, 20), segment(4, 1, commit_us=NOW + 1)]
    assert runs(*items, suspects=(1, 2, 3, 4)) == [
        ([1], False),
        ([2], False),
        ([3], True),
        ([4], False),
    ]


def test_a_row_is_rewritten_once_per_doubling() -> None:
    """One segment per hour for 512 hours: each row is written log2(512) times instead of 512."""
    items: list[ReadableSegment] = []
    written = 0
    for hour in range(1, 513):
        items.append(segment(hour, 1))
        (run,) = choose_runs(items, RunLimits(10_000, 1), NOW, lambda item: False)
        rows = sum(item.rows for item in run.items)
        kept = items[: len(items) - len(run.items)]
        items = [*kept, cover(run.items[0].first_sequence, hour, rows)]
        written += rows
    assert [item.rows for item in items] == [512]
    assert written == sum(hour & -hour for hour in range(1, 513)) <= 512 * 10
