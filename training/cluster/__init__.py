"""Where a stage runs: the only importer of Ray."""
