"""Consents of users to training, as the feedback service returns them."""

from collections.abc import Mapping, Sequence

from tests.training.feedback_log import principal_of
from training.data.feedback.rows import DataKey


class Consents:
    """Consents of all people except some."""

    def __init__(self, *forbidden: str) -> None:
        self._forbidden = {principal_of(user) for user in forbidden}

    def data_keys(self, principals: Sequence[str]) -> Mapping[str, DataKey]:
        assert "" not in principals
        return {name: DataKey(name not in self._forbidden) for name in principals}
