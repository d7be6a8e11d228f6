#!/usr/bin/env bash
# Resolves all dependency groups once, then writes one hash-pinned lock a group. Run after editing pyproject.toml.
set -euo pipefail
cd "$(dirname "$0")/../.."
compile() { uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate "$@"; }
compile --group dev -o locks/resolution.txt
for group in services predictor training dev; do
  compile --group "$group" --constraints locks/resolution.txt --generate-hashes -o "locks/$group.txt"
done
# What the oracle compares with (tests/oracle): torch and transformers as above, so that little but TRL is downloaded.
oracle() { echo "trl==$1" | compile - --constraints locks/resolution.txt --generate-hashes -o "locks/$2.txt"; }
oracle 1.16.0 oracle
oracle 1.12.0 oracle_ppo # the last that has PPO
