"""KServe where its manager is not to be had: a controller that acts by its rules, on KServe's own
definitions.
"""
