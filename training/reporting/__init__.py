"""Reports about runs: pages with curves and samples, and the comparison of two runs."""
