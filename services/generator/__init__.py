"""From messages to text: presets by task, the version that answers, and the rollout of a new one."""
