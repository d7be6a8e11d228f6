"""The one door for all rules that a machine can check."""
