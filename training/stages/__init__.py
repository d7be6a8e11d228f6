"""Training stages, one file each: pretrain, sft, reward_model, ppo, grpo, dpo, kto."""
