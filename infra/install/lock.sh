#!/usr/bin/env bash
# Resolves all dependency groups once, then writes one hash-pinned lock a group. Run after editing pyproject.toml.
set -euo pipefail
cd "$(dirname "$0")/../.."
compile() { uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate "$@"; }
compile --group dev -o locks/resolution.txt
for group in services predictor training dev; do
  compile --group "$group" --constraints locks/resolution.txt --generate-hashes -o "locks/$group.txt"
done
