"""Arena: pairs of anonymous answers, votes on them, and the ratings of the models."""
