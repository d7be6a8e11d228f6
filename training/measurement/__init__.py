"""Measurements that stages and evaluations share."""
