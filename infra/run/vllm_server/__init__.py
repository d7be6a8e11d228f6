"""Model server of a machine without Kubernetes: one vLLM process for each loaded version."""
