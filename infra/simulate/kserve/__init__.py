"""Simulation of KServe for clusters without its controller.

The controller follows KServe's rules and uses KServe's resource definitions.
"""
