"""The CPU model server of the embedded and CPU installs, behind KServe's contract."""
