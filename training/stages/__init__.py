"""One file a stage, read top to bottom: pretrain, sft, reward_model, ppo, grpo."""
