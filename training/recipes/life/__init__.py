"""The life of a small language model: corpus, pre-training, fine-tuning, rewards, PPO, chat."""
