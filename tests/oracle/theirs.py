"""The side of TRL 1.16, run by its own Python: `theirs.py FOLDER` writes theirs.json.

Each trainer uses its own collator and loss on the fixed batch. For comparability, TRL's reward
model gets our scalar head (which normalises the hidden state to unit RMS), and centring and weights
are set.
"""

import json
import sys
from pathlib import Path

import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from trl import (
    DPOConfig,
    DPOTrainer,
    GRPOConfig,
    GRPOTrainer,
    KTOConfig,
    KTOTrainer,
    RewardConfig,
    RewardTrainer,
    SFTConfig,
    SFTTrainer,
)

FOLDER = Path(sys.argv[1])
SETTINGS = json.loads((FOLDER / "settings.json").read_text())


def main():
    torch.set_num_threads(1)
    figures = {**of_sft(), **of_reward_model(), **of_dpo(), **of_kto()}
    figures |= of_grpo("GRPO", loss_type="grpo")
    figures |= of_grpo("DAPO", loss_type="dapo")
    figures |= of_grpo("Dr. GRPO", loss_type="dr_grpo", scale_rewards="none")
    (FOLDER / "theirs.json").write_text(json.dumps(figures))


def of_sft():
    rows = [
        {"prompt": row["messages"], "completion": reply(row["response"])} for row in read("sft")
    ]
    trainer = SFTTrainer(
        str(FOLDER / "policy"),
        args=SFTConfig(**common(len(rows)), completion_only_loss=True, packing=False),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer(),
    )
    inputs = trainer.data_collator(list(trainer.train_dataset))
    texts = [tokenizer().decode(labels[labels != -100]) for labels in inputs["labels"]]
    return {"SFT learns": texts, **loss_of("SFT", trainer, inputs)}


def of_reward_model():
    rows = [
        {
            "prompt": row["messages"],
            "chosen": reply(row["chosen"]),
            "rejected": reply(row["rejected"]),
            "margin": row["margin"],
        }
        for row in read("pairs")
    ]
    model = with_head("reward")
    trainer = RewardTrainer(
        model,
        args=RewardConfig(**common(len(rows)), center_rewards_coefficient=SETTINGS["centre"]),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer(),
    )
    return loss_of("reward model", trainer, trainer.data_collator(list(trainer.train_dataset)))


def of_dpo():
    rows = [
        {
            "prompt": row["messages"],
            "chosen": reply(row["chosen"]),
            "rejected": reply(row["rejected"]),
        }
        for row in read("pairs")
    ]
    trainer = DPOTrainer(
        causal("policy"),
        ref_model=causal("reference"),
        args=DPOConfig(**common(len(rows)), beta=SETTINGS["beta"]),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer(),
    )
    return loss_of("DPO", trainer, trainer.data_collator(list(trainer.train_dataset)))


def of_kto():
    rows = [
        {
            "prompt": row["messages"],
            "completion": reply(row["response"]),
            "label": row["thumb"] == "up",
        }
        for row in read("thumbs")
    ]
    trainer = KTOTrainer(
        causal("policy"),
        ref_model=causal("reference"),
        args=KTOConfig(
            **common(len(rows)),
            beta=SETTINGS["beta"],
            desirable_weight=SETTINGS["up_weight"],
            undesirable_weight=SETTINGS["down_weight"],
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer(),
    )
    figures = loss_of("KTO", trainer, trainer.data_collator(list(trainer.train_dataset)))
    return {"KTO z0": trainer._metrics["train"]["kl"][-1], **figures}


def of_grpo(name, **variant):
    """Compute rewards, advantages and old log-probs by the trainer, on a fixed rollout.

    Then the policy becomes one step later. For a model in memory the trainer would download its
    reference (beta > 0), so the trainer gets a path.
    """
    rows = json.loads((FOLDER / "groups.json").read_text())
    trainer = GRPOTrainer(
        str(FOLDER / "policy"),
        reward_funcs=lambda completions, **_: [row["reward"] for row in rows],
        args=GRPOConfig(
            **{key: value for key, value in common(len(rows)).items() if key != "max_length"},
            **variant,
            num_generations=SETTINGS["group"],
            use_bias_correction_kl=False,  # TRL multiplies k3 by the ratio; ours is plain k3
            num_iterations=2,  # otherwise TRL reuses the new log-probs as old ones
            steps_per_generation=1,
            max_completion_length=SETTINGS["response_tokens"],
            temperature=SETTINGS["temperature"],
            beta=SETTINGS["k3_coefficient"],
            epsilon=SETTINGS["clip"],
            epsilon_high=SETTINGS["clip_high"],
            model_init_kwargs={"dtype": "float32"},
        ),
        train_dataset=Dataset.from_list([{"prompt": "unused"}]),
        processing_class=tokenizer(),
        rollout_func=lambda prompts, trainer: {
            "prompt_ids": [row["prompt"] for row in rows],
            "completion_ids": [row["response"] for row in rows],
            "logprobs": None,
        },
    )
    trainer.ref_model.load_state_dict(causal("reference").state_dict())
    trainer.current_gradient_accumulation_steps = 1
    inputs = trainer._generate_and_score_completions([{"prompt": "unused"} for _ in rows])
    assert "old_per_token_logps" in inputs
    trainer.model.load_state_dict(causal("policy_later").state_dict())
    return loss_of(name, trainer, inputs)


def loss_of(name, trainer, inputs):
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, inputs)
    loss.backward()
    norms = [
        parameter.grad.double().norm()
        for parameter in trainer.model.parameters()
        if parameter.grad is not None
    ]
    return {f"{name} loss": loss.item(), f"{name} gradient norm": torch.stack(norms).norm().item()}


def common(rows):
    """Return settings of all trainers: fp32 on the CPU, the whole batch at once, no reports."""
    return {
        "output_dir": str(FOLDER / "trl"),
        "use_cpu": True,
        "bf16": False,
        "per_device_train_batch_size": rows,
        "gradient_checkpointing": False,
        "report_to": "none",
        "save_strategy": "no",
        "max_length": None,
    }


def with_head(name):
    """Return a sequence classifier with our head: hidden state at unit RMS, weight and bias."""
    model = AutoModelForSequenceClassification.from_pretrained(
        FOLDER / name, num_labels=1, dtype=torch.float32
    )
    model.config.pad_token_id = tokenizer().pad_token_id
    weights = load_file(FOLDER / name / "head.safetensors")
    width = weights["score.weight"].shape[1]
    linear = torch.nn.Linear(width, 1)
    linear.load_state_dict({"weight": weights["score.weight"], "bias": weights["score.bias"]})
    model.score = torch.nn.Sequential(torch.nn.RMSNorm(width, elementwise_affine=False), linear)
    return model


def causal(name):
    return AutoModelForCausalLM.from_pretrained(FOLDER / name, dtype=torch.float32)


def tokenizer():
    return AutoTokenizer.from_pretrained(FOLDER / "policy")


def read(name):
    return [json.loads(line) for line in (FOLDER / f"{name}.jsonl").read_text().splitlines()]


def reply(text):
    return [{"role": "assistant", "content": text}]


if __name__ == "__main__":
    main()
