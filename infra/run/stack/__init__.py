"""`make stack`: Thumbwheel on real servers of this machine, two replicas of every service."""
