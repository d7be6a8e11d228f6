"""Test suites that verify policy learning, and the tests for each known implementation detail.

python -m tests.training.suites [NAME …] runs suites in this process, and prints CPU seconds per
file without imports.
"""

import resource
import sys
from collections import Counter
from collections.abc import Generator, Sequence
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
HERE = "tests/training/"
# CPU time. The learning suite may take 90 s on two cores.
SECONDS = {"correctness": 10.0, "learning": 180.0}
SUITES = {
    "correctness": (
        "losses/test_log_probs.py",
        "losses/test_policy.py",
        "losses/test_preferences.py",
        "model/test_reward.py",
        "model/test_transformer.py",
        "optim/test_optimizers.py",
        "runtime/test_ranks.py",
        "rl/test_advantages.py",
        "rl/test_correction.py",
        "rl/test_experience.py",
        "rl/test_reference.py",
        "rl/test_rollout.py",
        "stages/test_grpo_algorithm.py",
        "stages/test_policy_loop.py",
        "stages/test_ppo_algorithm.py",
    ),
    "learning": ("rl/test_learning.py", "rl/test_learning_grpo.py"),
}
# Tests that take seconds or several processes are in no suite: the last row, and tests of complete
# stages.
CHECKLIST: dict[str, tuple[str, ...]] = {
    "PAD is no EOS; EOS stays in the response mask": (
        "rl/test_rollout.py::test_mask_ends_with_the_stop_token",
    ),
    "prompts padded on the left, right-most real token, positions from the mask": (
        "model/test_transformer.py::test_padding_on_either_side_does_not_affect_real_tokens",
        "model/test_transformer.py::test_positions_count_real_tokens_only",
        "rl/test_rollout.py::test_score_is_read_at_the_last_real_token",
        "rl/test_rollout.py::test_rows_are_independent",
    ),
    "log-probs at sampling temperature": (
        "rl/test_rollout.py::test_sampled_frequencies_match_probabilities",
        "losses/test_log_probs.py::test_log_probs_use_the_sampling_temperature",
    ),
    "old log-probs recomputed by the trainer": (
        "rl/test_rollout.py::test_sampler_and_trainer_have_equal_log_probs",
        "model/test_transformer.py::test_decoding_with_the_cache_equals_one_forward",
        "stages/test_ppo_algorithm.py::test_old_log_probs_are_the_policys_own_at_its_temperature",
    ),
    "dropout off": (
        "stages/test_ppo.py::test_no_model_has_dropout",
        "rl/test_learning.py::test_first_minibatch_is_on_policy",
        "stages/test_grpo_algorithm.py"
        "::test_the_first_minibatch_is_on_policy_with_log_probs_of_its_own",
    ),
    "reward model: head, Bradley-Terry, normalised, centred": (
        "model/test_reward.py::test_new_head_has_the_papers_deviation_and_a_critics_is_zero",
        "losses/test_preferences.py::test_bradley_terry_of_equal_scores_is_log_two",
        "losses/test_preferences.py::test_centring_pulls_the_sum_of_a_pair_to_zero",
        "stages/test_reward_model.py::test_a_saved_reward_model_loads_normalised_and_as_critic",
        "stages/test_reward_model.py"
        "::test_held_out_accuracy_comes_near_the_ceiling_that_noise_sets",
    ),
    "critic from the reward model, values of the state before the token": (
        "rl/test_rollout.py::test_value_belongs_to_the_state_before_its_token",
        "stages/test_ppo_algorithm.py::test_values_belong_to_the_state_before_their_token",
        "stages/test_reward_model.py::test_a_saved_reward_model_loads_normalised_and_as_critic",
    ),
    "reward per token, score on the last real token, k1 in the reward": (
        "rl/test_advantages.py::test_score_is_on_the_last_real_token",
        "rl/test_advantages.py::test_drifting_from_the_reference_costs_beta_per_nat",
        "rl/test_learning.py::test_policy_stays_near_its_reference_without_a_reward",
    ),
    "adaptive KL": (
        "rl/test_advantages.py::test_beta_changes_by_at_most_a_fifth_of_samples_over_horizon",
        "stages/test_ppo_algorithm.py::test_beta_follows_its_target_from_update_to_update",
    ),
    "missing-EOS penalty or truncation filter": (
        "rl/test_learning.py::test_missing_eos_penalty_alone_makes_responses_end",
        "stages/test_grpo_algorithm.py::test_a_truncated_response_is_penalised_or_masked",
    ),
    "reward clip": (
        "rl/test_advantages.py::test_unfinished_response_has_a_penalty_and_scores_are_clipped",
    ),
    "GAE": (
        "rl/test_advantages.py::test_gae_equals_brute_force_and_ignores_masked_values",
        "rl/test_advantages.py::test_with_lambda_one_returns_are_monte_carlo",
    ),
    "advantages whitened over the global batch": (
        "rl/test_advantages.py::test_whitening_uses_real_tokens_only",
        "runtime/test_ranks.py::test_whitening_covers_the_tokens_of_all_workers",
    ),
    "ratio clip, value clip, log-ratio clamp": (
        "losses/test_policy.py::test_clipped_surrogate_has_no_gradient_beyond_the_clip",
        "losses/test_policy.py::test_value_loss_is_the_worse_of_clipped_and_unclipped",
        "losses/test_policy.py::test_extreme_ratio_stays_finite",
    ),
    "Adam's epsilon, linear decay, gradient clip; the exact gradient": (
        "optim/test_optimizers.py::test_matrices_decay_and_embeddings_norms_and_biases_do_not",
        "optim/test_optimizers.py::test_rate_warms_up_and_decays_to_its_floor",
        "optim/test_optimizers.py::test_large_gradient_is_clipped_and_its_norm_reported",
        "rl/test_learning.py::test_sampled_gradient_equals_the_exact_bandit_gradient",
    ),
    "several shuffled minibatch epochs, early stop": (
        "stages/test_policy_loop.py::test_every_epoch_has_all_rows_in_its_own_order",
        "stages/test_policy_loop.py::test_an_update_ends_after_the_minibatch_beyond_the_kl_limit",
        "rl/test_experience.py::test_every_row_occurs_once_in_seeded_order",
    ),
    "SFT loss against alignment tax": (
        "stages/test_grpo.py::test_mixed_examples_are_learned_in_addition_to_the_reward",
    ),
    "GRPO: k3, normalisations, groups without variance": (
        "losses/test_policy.py::test_kl_estimates_are_exact_in_expectation",
        "losses/test_policy.py::test_normalisations_weight_responses_as_documented",
        "rl/test_advantages.py::test_advantage_is_the_distance_from_the_group_mean",
        "rl/test_advantages.py::test_group_with_equal_scores_has_no_signal",
        "stages/test_grpo_algorithm.py::test_groups_without_variance_change_nothing",
    ),
    "distributed; what a checkpoint holds": (
        "optim/test_optimizers.py::test_two_ranks_train_like_one",
        "stages/test_split_policies.py::test_every_layout_trains_like_one_process",
        "stages/test_killed.py::test_the_same_call_ends_with_the_same_bits",
    ),
}


class Stopwatch:
    """CPU seconds of the tests of each file.

    Imports of the file do not count, but imports during a test do.
    """

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        before = processor_seconds()
        done = yield
        self.seconds[item.location[0]] += processor_seconds() - before
        return done


def processor_seconds() -> float:
    """Return the CPU seconds of this process and of its finished children."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def main(names: Sequence[str]) -> int:
    """Return the exit status of pytest."""
    torch.set_num_threads(1)
    failed = 0
    for name in names:
        watch = Stopwatch()
        slow = [] if name == "learning" else ["-m", "not slow"]
        options = ["-q", "-p", "no:cacheprovider", "--no-header", *slow]
        failed = failed or pytest.main(
            [*options, *(str(ROOT / HERE / path) for path in SUITES[name])], [watch]
        )
        for path, seconds in watch.seconds.items():
            print(f"{seconds:7.1f} s  {path}")
        print(f"{watch.seconds.total():7.1f} s  {name}, of {SECONDS[name]:.0f}")
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or tuple(SUITES)))
