"""README of the chart with every value, its default and its comment."""

from infra.docs.chart import CHART, describe_values, shown

TEXT = """
# Not a value's.
# -- First line,
# and the second.
a: 1

b:
  c: {d: 2}
  # -- With a | in it.
  e: ""
f: 3
"""


def test_comments_describe_the_key_below() -> None:
    assert list(describe_values(TEXT)) == [
        ("a", "First line, and the second."),
        ("b.c", ""),
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
