"""Style features of texts."""

import numpy as np
import pytest

from human_evaluation.style import STYLE_FEATURES, style_counts, style_difference

TEXT = """# Title

Some **bold** and __other bold__ words, not * one *.

- first
* second
  + nested
1. third
10. tenth

#no header

```
# a comment
- no item
**no bold**
```
"""


def test_counts_of_markdown() -> None:
    counts = dict(zip(STYLE_FEATURES, style_counts(TEXT), strict=True))
    assert counts == {"length": len(TEXT.split()), "headers": 1, "bold": 2, "lists": 5}
    assert style_counts(TEXT, tokens=123)[0] == 123
    assert style_counts("").tolist() == [0, 0, 0, 0]


def test_differences_are_relative() -> None:
    first, second = np.array([30.0, 0, 2, 0]), np.array([10.0, 1, 2, 0])
    assert style_difference(first, second) == pytest.approx([0.5, -1, 0, 0])
    assert style_difference(np.stack((first, first)), second).shape == (2, 4)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("piece", ["\n", "`", "```", "**", "__", "** a", " ", "\n ", "#", "1."])
def test_long_texts_of_one_piece_need_no_quadratic_time(piece: str) -> None:
    """A search of quadratic time in 500,000 characters needs minutes, beyond the test's timeout."""
    text = piece * (500_000 // len(piece))
    assert style_counts(text)[0] == len(text.split())
