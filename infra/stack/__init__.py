"""Thumbwheel on the real servers of this machine, two replicas of every service: `make stack`."""
