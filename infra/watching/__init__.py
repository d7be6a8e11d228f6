"""What on-call engineers look at and what wakes them: dashboards for Grafana, made by code, and
alert rules for Prometheus.
"""
