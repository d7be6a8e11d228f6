"""Rollouts, rewards, advantages and losses: the mathematics of SFT, reward model and PPO."""
