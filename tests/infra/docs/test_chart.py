"""README of the chart with every value, its default and its comment."""

import pytest

from infra.docs import chart
from infra.docs.chart import CHART, EVERYWHERE, describe_values, shown

TEXT = """
# Not a value's.
# -- First line,
# and the second.
a: 1

b:
  c3: {d: 2}
  # -- With a | in it.
  e: ""
f: 3
"""


def test_comments_describe_the_key_below() -> None:
    assert list(describe_values(TEXT)) == [
        ("a", "First line, and the second."),
        ("b.c3", ""),
        ("b.e", "With a \\| in it."),
        ("f", ""),
    ]


def test_values_of_identity_and_certificates_have_comments_of_their_own() -> None:
    described = describe_values((CHART / "values.yaml").read_text())
    found = {key: text for key, text in described if key.startswith(("identity.", "tls."))}
    assert {"identity.mode", "tls.certManager.duration"} <= found.keys()
    assert [key for key, text in found.items() if not text] == []


def test_long_default_is_truncated() -> None:
    assert shown("") == '`""`'
    assert len(shown({"key": "x" * 100})) == 62


def test_common_names_have_one_description_wherever_they_occur() -> None:
    text = "a:\n  tolerations: []\nb:\n  # -- Own.\n  tolerations: []\n"
    assert list(describe_values(text)) == [
        ("a.tolerations", EVERYWHERE["tolerations"]),
        ("b.tolerations", "Own."),
    ]


def test_value_without_a_description_is_refused(tmp_path, monkeypatch) -> None:
    (tmp_path / "values.yaml").write_text("# -- Described.\na: 1\nb: 2\n")
    monkeypatch.setattr(chart, "CHART", tmp_path)
    with pytest.raises(SystemExit, match=r": b$"):
        chart.main()
