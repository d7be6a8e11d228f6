"""The real KubeRay operator for the cluster of this machine, built from its Go module: teams
install theirs by its own chart.
"""
