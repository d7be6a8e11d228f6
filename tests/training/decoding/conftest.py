"""As in the model's tests: one thread."""

from tests.training.model.conftest import one_thread

__all__ = ["one_thread"]
