"""Simulation of users, of faults and of KServe's controller."""
