"""`make check`: all rules that a machine can check."""
