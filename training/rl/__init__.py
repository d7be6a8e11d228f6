"""Mathematics of SFT, reward models and policy learning: rollouts, rewards, advantages, losses."""
