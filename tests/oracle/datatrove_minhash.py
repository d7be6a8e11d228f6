"""Near duplicates by datatrove's four stages; runs in the environment of locks/datatrove.txt.

Usage: `python datatrove_minhash.py TEXTS WORK OUT`. TEXTS is a folder of JSON lines with `id` and
`text`. OUT gets a JSON object: `clusters` (number of the cluster by id, only of documents in one),
`removed` (ids) and `cpu_seconds` (of each stage).
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from datatrove.executor import LocalPipelineExecutor  # type: ignore[import-not-found]
from datatrove.pipeline.dedup import (  # type: ignore[import-not-found]
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
    MinhashDedupSignature,
)
from datatrove.pipeline.dedup.minhash import MinhashConfig  # type: ignore[import-not-found]
from datatrove.pipeline.readers import JsonlReader  # type: ignore[import-not-found]
from datatrove.utils.hashing import HashConfig  # type: ignore[import-not-found]


def main() -> None:
    texts, work, out = map(Path, sys.argv[1:4])
    config = MinhashConfig(hash_config=HashConfig(precision=64))
    found: dict[str, int] = {}
    kept: set[str] = set()

    def collect(documents: Any, rank: int = 0, world_size: int = 1) -> Any:
        for document in documents:
            kept.add(document.id)
            yield document

    def note_clusters(documents: Any, rank: int = 0, world_size: int = 1) -> Any:
        for document in documents:
            found[document.id] = 0
            yield document

    stages = {
        "signatures": [MinhashDedupSignature(str(work / "signatures"), config)],
        "buckets": [
            MinhashDedupBuckets(str(work / "signatures"), str(work / "buckets"), config=config)
        ],
        "clusters": [
            MinhashDedupCluster(
                str(work / "buckets"), str(work / "remove"), config, save_cluster_id=True
            )
        ],
        "filter": [note_clusters, MinhashDedupFilter(str(work / "remove")), collect],
    }
    tasks = {"buckets": config.num_buckets}
    cpu_seconds = {}
    for name, steps in stages.items():
        reader = [JsonlReader(str(texts))] if name in ("signatures", "filter") else []
        start = time.process_time()
        LocalPipelineExecutor(
            pipeline=[*reader, *steps],
            tasks=tasks.get(name, 1),
            workers=1,
            logging_dir=str(work / "logs" / name),
        ).run()
        cpu_seconds[name] = time.process_time() - start
    ids = list(found)
    file = work / "remove" / "000000.clusters"
    numbers = file.read_bytes() if file.exists() else b""  # not written without near duplicates
    pairs = memoryview(numbers).cast("I").tolist()
    clusters = {ids[place]: cluster for place, cluster in zip(pairs[::2], pairs[1::2], strict=True)}
    out.write_text(
        json.dumps(
            {
                "clusters": clusters,
                "removed": [id for id in ids if id not in kept],
                "cpu_seconds": cpu_seconds,
            }
        )
    )


if __name__ == "__main__":
    main()
