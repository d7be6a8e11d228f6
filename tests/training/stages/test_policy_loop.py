"""The loop around an algorithm: prompts, order of minibatches, and early stop."""

from dataclasses import replace

import torch

from tests.training.rl.toy import toy_config, toy_networks, toy_prompts
from training.data.seeds import rows_of_step
from training.losses.policy import PolicyLoss
from training.rl.experience import Experience, MinibatchSums, minibatches
from training.rl.rollout import Rollout
from training.runtime.ranks import ALONE, Ranks
from training.stages.policy_config import PolicyConfig
from training.stages.policy_loop import local_engine, sample_rollout

ROWS = 12


def experience_of(rows: int) -> Experience:
    mask = torch.ones(rows, 2, dtype=torch.long)
    numbers = torch.arange(rows).float()[:, None].expand(rows, 2)
    rollout = Rollout(
        mask, mask, mask, mask, numbers, torch.ones(rows).bool(), "update-0", ("",) * rows
    )
    return Experience(rollout, mask, numbers, numbers, numbers, numbers[:, 0], None)


def config(**changes: object) -> PolicyConfig:
    return toy_config(
        **{"prompts_per_update": ROWS, "samples_per_prompt": 1, "minibatch_rows": 4, **changes}
    )


def seen(
    settings: PolicyConfig, update: int = 0, kl_sums: float = 0.0
) -> tuple[list[list[int]], dict[str, float]]:
    """Return the rows of each minibatch, and the figures."""
    rows: list[list[int]] = []
    sums = MinibatchSums(["policy_loss"], ALONE)
    epochs, size, seeds = (
        settings.epochs_per_update,
        settings.minibatch_rows,
        (settings.seed, update),
    )
    for part in minibatches(experience_of(ROWS), epochs, size, seeds, ALONE):
        assert sums.count == len(rows)
        rows.append(part.old_log_probs_BR[:, 0].int().tolist())
        loss = torch.tensor(float(sums.count))
        sums.add(part.mask_BR, PolicyLoss(loss, torch.tensor(2.0), torch.tensor(kl_sums)), [loss])
        if sums.kl_exceeds(settings.early_stop_nats):
            break
    return rows, sums.figures()


def test_every_epoch_has_all_rows_in_its_own_order() -> None:
    rows, figures = seen(config(epochs_per_update=2))
    epochs = [[row for part in parts for row in part] for parts in (rows[:3], rows[3:])]
    assert [sorted(epoch) for epoch in epochs] == [list(range(ROWS))] * 2
    assert epochs[0] != epochs[1]
    assert seen(config(epochs_per_update=2))[0] == rows
    assert seen(config(epochs_per_update=2), update=1)[0] != rows
    assert seen(config(epochs_per_update=2, seed=1))[0] != rows
    assert figures == {
        "minibatches": 6,
        "clip_fraction": 0.25,
        "approximate_kl": 0.0,
        "policy_loss": 2.5,
    }


def test_an_update_ends_after_the_minibatch_beyond_the_kl_limit() -> None:
    assert len(seen(config(early_stop_nats=0.1), kl_sums=0.9)[0]) == 1  # 0.9 nats over 8 tokens
    assert len(seen(config(early_stop_nats=0.1), kl_sums=0.7)[0]) == 6
    assert len(seen(config(), kl_sums=9.0)[0]) == 6


def test_ranks_sample_like_one_process_and_tasks_follow_prompts() -> None:
    settings = config(samples_per_prompt=2, minibatch_rows=2, max_response_tokens=4)
    prompts = replace(toy_prompts(20), tasks=[f"task {row}" for row in range(20)])
    networks = toy_networks()

    def sampled(ranks: Ranks) -> Rollout:
        return sample_rollout(
            local_engine(networks.policy, prompts)(3), prompts, 3, settings, ranks
        )

    alone, second = sampled(ALONE), sampled(Ranks(1, 2, 1, 2))
    rows = rows_of_step(3, ROWS, 20, settings.seed)
    assert alone.tasks == tuple(f"task {row}" for row in rows for _ in range(2))
    assert alone.version == "update-3"
    theirs = [row for place in range(1, ROWS, 2) for row in (2 * place, 2 * place + 1)]
    assert second.tasks == tuple(alone.tasks[row] for row in theirs)
    columns = min(second.response_ids_BR.shape[1], alone.response_ids_BR.shape[1])
    assert torch.equal(
        second.response_ids_BR[:, :columns], alone.response_ids_BR[theirs][:, :columns]
    )
