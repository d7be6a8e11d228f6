"""The protos: generation of stubs and the check that they are fresh."""
