"""Where mutants are planted, and the suites that catch them."""

REWARDS = ("tests/training/rl/test_rewards.py",)
LOSSES = ("tests/training/rl/test_losses.py",)
ROLLOUT = ("tests/training/rl/test_rollout.py",)
GROUPS = ("tests/training/rl/test_advantages.py",)
CORRECTION = ("tests/training/rl/test_correction.py",)
MINIBATCHES = ("tests/training/rl/test_minibatches.py",)
DECODER = ("tests/training/model/test_transformer.py",)
PPO = ("tests/training/stages/test_ppo_algorithm.py",)
GRPO = ("tests/training/stages/test_grpo_algorithm.py",)
LOOP = ("tests/training/stages/test_policy_loop.py",)
REFERENCE = ("tests/training/rl/test_reference.py",)
DPO = ("tests/training/stages/test_dpo.py",)
KTO = ("tests/training/stages/test_kto.py",)
REWARD_MODEL = ("tests/training/stages/test_reward_model.py",)
LABEL_NOISE = ("tests/training/rl/test_label_noise.py",)
SERVED = ("tests/training/rl/test_served.py",)
RANGES = ("tests/training/test_ranges.py",)
OPTIM = ("tests/training/optim/test_optim.py",)
RANKS = ("tests/training/optim/test_ranks.py",)

ADVANTAGES_PY = "training/rl/advantages.py"
CORRECTION_PY = "training/rl/correction.py"
DPO_PY = "training/stages/dpo.py"
GRADIENTS_PY = "training/optim/gradients.py"
GRPO_PY = "training/stages/grpo.py"
KTO_PY = "training/stages/kto.py"
LABEL_NOISE_PY = "training/rl/label_noise.py"
LOG_PROBS_PY = "training/rl/log_probs.py"
LOSSES_PY = "training/rl/losses.py"
PPO_PY = "training/stages/ppo.py"
REFERENCE_PY = "training/rl/reference.py"
REWARD_MODEL_PY = "training/stages/reward_model.py"
REWARDS_PY = "training/rl/rewards.py"
ROLLOUT_PY = "training/rl/rollout.py"
SERVED_PY = "training/rl/served.py"
TRANSFORMER_PY = "training/model/transformer.py"
