#!/usr/bin/env bash
# Generate gen/ from proto/: Python messages, gRPC stubs and their types. `make check` generates
# into a temporary folder and compares.
set -euo pipefail
cd "$(dirname "$0")/../.."
out="${1:-gen}"
python="${PROTO_PYTHON:-.venv/bin/python}"
bin="$(dirname "$python")"
mkdir -p "$out"
find "$out" -name '*_pb2*' -delete
"$python" -m grpc_tools.protoc -I proto --python_out="$out" --grpc_python_out="$out" \
  --plugin=protoc-gen-mypy="$bin/protoc-gen-mypy" --plugin=protoc-gen-mypy_grpc="$bin/protoc-gen-mypy_grpc" \
  --mypy_out=quiet:"$out" --mypy_grpc_out=quiet,only_async:"$out" $(find proto -name '*.proto' | sort)
