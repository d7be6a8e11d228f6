"""KubeRay operator for the local cluster, built from its Go module.

Other clusters install the operator by its own chart.
"""
