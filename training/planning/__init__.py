"""What a run will need before it runs: memory of each accelerator, time of a step; and a refusal where it does not fit."""
