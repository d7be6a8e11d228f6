"""What figures of a manifest's report mean that are often misread, by their names; and how one
comes to be known that is not.
"""

_BOUND = "of the 95 % interval, for prompts and not pairs as independent"
MEANINGS = {
    "held_out_accuracy_low": _BOUND,
    "held_out_accuracy_high": _BOUND,
    "kl": "nats a response, from one sampled answer a prompt: an estimate, which may be below 0",
    "answers_unsampled": "rows without `served`: nobody knows what was sampled, so their text is learned from as it is",
    "answers_unfit": "rows whose `served` is not their text by this tokenizer: their text is learned from",
}
_NOISE = "no pair was judged twice; --set label_noise=0.1 says it"
UNKNOWN = {"label_noise": _NOISE, "label_noise_ceiling": _NOISE}
