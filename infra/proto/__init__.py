"""Generation of protobuf stubs and a check of their freshness."""
