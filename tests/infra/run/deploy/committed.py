"""Content of the cluster's bucket, read in a pod and checked by the history checker."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from services.feedback.lake import parquet
from services.feedback.lake.ledger import Segment
from tests.infra.run.deploy.deployed import Deployed
from tests.services.feedback.history import History, PartitionKey, violations

# Runs in a pod of the service, with the settings of the service.
READ = """
import json
from dataclasses import asdict
from services.chassis.settings import load_settings
from services.feedback.store.database import open_database
from services.feedback.events import Stream
from services.feedback.kafka.topic import partition_views
from services.feedback.lake import parquet
from services.feedback.lake.ledger import Ledger
from services.feedback.lake.location import object_store
from services.feedback.settings import FeedbackSettings
settings = load_settings(FeedbackSettings)
ledger, store, found = Ledger(open_database(settings.database_url)), object_store(settings), {}
def rows(key):
    wanted = ("event_id", "message_id", "offset", "accept_order")
    found = parquet.to_rows(parquet.read(store.get(key)))
    return [{name: row.get(name) for name in wanted} for row in found]
for stream in Stream:
    segments = ledger.segments(stream)
    found[stream.value] = {
        "segments": [asdict(segment) for segment in segments],
        "objects": {
            segment.object_key: rows(segment.object_key)
            for segment in segments
            if segment.object_key
        },
        "ends": [
            asdict(view)
            for view in partition_views(settings.cluster(), settings.topic(stream))
        ],
    }
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Committed:
    """Ledger, objects and log ends of a stream."""

    ledger: list[Segment]
    objects: Mapping[str, list[parquet.Row]]
    ends: Mapping[PartitionKey, int]

    @property
    def rows(self) -> list[parquet.Row]:
        return [row for rows in self.objects.values() for row in rows]

    @property
    def settled(self) -> bool:
        """Return True if the sink has committed all log entries."""
        reached = {
            (segment.topic_id, segment.partition): segment.end_offset for segment in self.ledger
        }
        return all(reached.get(place, 0) == end for place, end in self.ends.items())

    def violations(self, history: History) -> list[str]:
        """Check the invariants A to E.

        Logs of earlier topics end at the offsets of the ledger.
        """
        reached = {
            (segment.topic_id, segment.partition): segment.end_offset for segment in self.ledger
        }
        return violations(
            history,
            self,
            self,
            "",
            {**reached, **self.ends},
            lambda data: self.objects[data.decode()],
        )

    def segments(self, _stream: str) -> list[Segment]:
        return self.ledger

    def get(self, key: str) -> bytes:
        return key.encode()


def committed(deployed: Deployed) -> dict[str, Committed]:
    """Return the committed content by stream."""
    found: dict[str, Any] = json.loads(deployed.python("feedback", "-c", READ))
    return {
        stream: Committed(
            [Segment(**segment) for segment in one["segments"]],
            one["objects"],
            {(view["topic_id"], view["partition"]): view["end_offset"] for view in one["ends"]},
        )
        for stream, one in found.items()
    }
