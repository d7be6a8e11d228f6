"""The order of the tests, and who keeps company: several workers share them (`make test`)."""

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long ones begin, so that no worker ends with one; what shares the running system stays on one worker."""
    items.sort(key=lambda item: "slow" not in item.keywords)
    for item in items:
        if "stack" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("stack"))
