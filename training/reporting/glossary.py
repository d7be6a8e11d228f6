"""Explanations of figures that are often misread, and advice for figures that are unknown."""

_BOUND = "bound of the 95 % interval, with prompts (not pairs) as independent observations"
EXPLANATIONS = {
    "held_out_accuracy_low": _BOUND,
    "held_out_accuracy_high": _BOUND,
    "kl": "nats per response, estimated from one sampled answer per prompt; may be below 0",
    "answers_unsampled": "rows without `served`; the sampled ids are unknown, so the text is used",
    "answers_unfit": "rows whose `served` differs from the text under this tokenizer; "
    "the text is used",
}
_NOISE = "no pair was judged twice; set it with --set label_noise=0.1"
UNKNOWN = {"label_noise": _NOISE, "label_noise_ceiling": _NOISE}
