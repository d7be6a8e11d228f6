"""Thumbwheel's training library: stages from feedback to a better model."""

import os

# The loop's process talks to services by gRPC and starts Ray, which forks. gRPC's handlers of a
# fork let the child die or hang before it becomes one of Ray's servers; none of ours lives on as a
# fork. Read when gRPC starts, so said before anything of ours imports it.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
