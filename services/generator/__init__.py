"""Generation of answers: sampling presets, choice of the version, rollout of new versions."""
