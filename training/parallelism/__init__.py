"""Distribution of one model over several workers."""
