"""Local runs and deployments of the whole system."""
