"""Execution of stages in this process or on Ray; only this package imports Ray."""
