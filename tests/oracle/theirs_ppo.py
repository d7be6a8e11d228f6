"""PPO of TRL 1.12, run by its own Python: `theirs_ppo.py FOLDER` writes theirs_ppo.json.

One update of its trainer on a fixed rollout. The loss is inside `train`, so that function runs
unchanged with three replacements: the rollout is the fixed one; advantages are whitened by the
population variance, as ours; between rollout and training, policy and critic become one step later,
so that ratios and value clipping have an effect.
"""

import json
import sys
from pathlib import Path

import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

FOLDER = Path(sys.argv[1])
SETTINGS = json.loads((FOLDER / "settings.json").read_text())
ROWS = json.loads((FOLDER / "rollout.json").read_text())
LOGGED = {
    "PPO policy loss": "loss/policy_avg",
    "PPO value loss": "loss/value_avg",
    "PPO clip fraction": "policy/clipfrac_avg",
}


def main():
    torch.set_num_threads(1)
    trainer = make_trainer()
    figures, logged = {}, {}
    trainer.accelerator.backward = lambda loss: figures.update(gradients(loss, trainer.model))
    trainer.log = logged.update
    ppo_trainer.batch_generation = fixed_rollout
    whiten = ppo_trainer.masked_whiten

    def whiten_then_step(values, mask):
        trainer.model.policy.load_state_dict(causal("policy_later").state_dict())
        trainer.model.value_model.load_state_dict(with_head("critic_later", "critic").state_dict())
        return whiten(values, mask)

    unbiased = ppo_trainer.masked_var
    ppo_trainer.masked_var = lambda values, mask: unbiased(values, mask, unbiased=False)
    ppo_trainer.masked_whiten = whiten_then_step
    trainer.train()
    figures |= {name: logged[theirs] for name, theirs in LOGGED.items()}
    (FOLDER / "theirs_ppo.json").write_text(json.dumps(figures))


def make_trainer():
    rows = Dataset.from_list([{"input_ids": row["prompt"]} for row in ROWS])
    config = PPOConfig(
        output_dir=str(FOLDER / "trl_ppo"),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to="none",
        save_strategy="no",
        per_device_train_batch_size=len(ROWS),
        gradient_accumulation_steps=1,
        num_mini_batches=1,
        num_ppo_epochs=1,
        total_episodes=len(ROWS),
        num_sample_generations=0,
        response_length=SETTINGS["response_tokens"],
        stop_token="eos",
        temperature=SETTINGS["temperature"],
        kl_coef=SETTINGS["kl_coefficient"],
        cliprange=SETTINGS["clip"],
        cliprange_value=SETTINGS["clip"],
        vf_coef=1.0,
        missing_eos_penalty=1.0,
        gamma=1.0,
        lam=0.95,
    )
    return PPOTrainer(
        config,
        processing_class=tokenizer(),
        model=causal("policy"),
        ref_model=causal("reference"),
        reward_model=with_head("reward", "reward"),
        value_model=with_head("critic", "critic"),
        train_dataset=rows,
        eval_dataset=rows,
    )


def fixed_rollout(policy, queries, rows, pad_token_id, generation_config):
    """Return the response of each query, and the logits of its samples."""
    responses = {tuple(row["prompt"]): row["response"] for row in ROWS}
    asked = [tuple(query[query != pad_token_id].tolist()) for query in queries]
    whole = torch.cat((queries, torch.tensor([responses[prompt] for prompt in asked])), dim=1)
    logits = ppo_trainer.forward(policy, whole, pad_token_id).logits[:, queries.shape[1] - 1 : -1]
    return whole, logits / generation_config.temperature


def gradients(loss, model):
    loss.backward()
    return {
        "PPO policy gradient norm": norm_of(model.policy),
        "PPO value gradient norm": norm_of(model.value_model),
    }


def norm_of(model):
    return (
        torch.stack([p.grad.double().norm() for p in model.parameters() if p.grad is not None])
        .norm()
        .item()
    )


def with_head(name, head):
    """Return a model with our head: hidden state at unit RMS, weight and bias."""
    model = AutoModelForSequenceClassification.from_pretrained(
        FOLDER / name, num_labels=1, dtype=torch.float32
    )
    weights = load_file(FOLDER / head / "head.safetensors")
    width = weights["score.weight"].shape[1]
    linear = torch.nn.Linear(width, 1)
    linear.load_state_dict({"weight": weights["score.weight"], "bias": weights["score.bias"]})
    model.score = torch.nn.Sequential(torch.nn.RMSNorm(width, elementwise_affine=False), linear)
    return model


def causal(name):
    return AutoModelForCausalLM.from_pretrained(FOLDER / name, dtype=torch.float32)


def tokenizer():
    return AutoTokenizer.from_pretrained(FOLDER / "policy", padding_side="left")


if __name__ == "__main__":
    main()
