"""Is the candidate better, and is it safe to let users judge: offline gate and online canary."""
