"""From chat to training: the predictor's samples are in the rows of rated answers.

The training library computes the same log-probs for them.
"""

from tests.journeys.served_samples import check_served_samples
from tests.journeys.stack import Stack


def test_training_computes_the_same_log_probs_as_serving(stack: Stack) -> None:
    # Measured 0.002 to 0.004. A prompt with one token missing results in 0.13.
    check_served_samples(stack, limit_nats=0.02)
