"""Generate the names of service settings and of alerts in the chart's values.schema.json.

`--check` compares and writes nothing. Only `$defs.settingsOf` and `$defs.alerts` of the file are
written. With these names Helm rejects a misspelt setting, with which the pod would restart
repeatedly, and a misspelt alert or threshold, which would have no effect.
"""

import json
from typing import Any

from infra.docs.chart import SCHEMA
from infra.docs.output import write_or_compare
from infra.docs.settings import common_fields, settings_class
from infra.service_table import service_table
from infra.watching.rules import thresholds

# Pods receive these settings from secrets. A value in values.yaml would be readable and without
# effect.
OUT_OF_SECRETS = frozenset(
    (
        *("principal_key", "master_key", "model_server_key"),
        *("database_url", "valkey_url", "valkey_secret"),
        *("database_username", "database_password", "accepted_master_keys"),
        *("kafka_username", "kafka_password", "s3_access_key", "s3_secret_key"),
    )
)
# The values `database` set these; some may also come from a secret.
OUT_OF_DATABASE = frozenset(
    ("database_host", "database_port", "database_name", "database_ssl_mode")
)
# Limits of thresholds by name; other thresholds are counts. A month is longer than any useful wait.
MONTH_SECONDS = 2_592_000
RATIO = {"type": "number", "exclusiveMinimum": 0, "maximum": 1}
LIMITS = {
    "for": {"type": "string", "pattern": "^[0-9]{1,4}[smhd]$"},
    "ratio": RATIO,
    "freeRatio": RATIO,
    "seconds": {"type": "number", "exclusiveMinimum": 0, "maximum": MONTH_SECONDS},
    "periods": {"type": "number", "minimum": 1, "maximum": 1000},
}
COUNT = {"type": "number", "minimum": 0, "maximum": 1_000_000_000}


def main() -> None:
    text = json.dumps(with_alerts(with_settings(json.loads(SCHEMA.read_text()))), indent=1) + "\n"
    complaint = (
        "charts/thumbwheel/values.schema.json is stale: run python -m infra.docs.chart_settings"
    )
    write_or_compare(SCHEMA, text, complaint)


def with_settings(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema with the current names of settings.

    `every` contains the settings that all services except the predictor share.
    """
    fields = {
        "every": common_fields(),
        **{name: settings_class(name).model_fields for name in service_table().names},
    }
    names = {
        name: {"propertyNames": {"enum": sorted({*those} - OUT_OF_SECRETS - OUT_OF_DATABASE)}}
        for name, those in fields.items()
    }
    return {**schema, "$defs": {**schema["$defs"], "settingsOf": names}}


def with_alerts(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema with the current names of alerts, and their thresholds with limits."""
    every = {
        alert: {
            "type": "object",
            "additionalProperties": False,
            "properties": {name: LIMITS.get(name, COUNT) for name in names},
        }
        for alert, names in thresholds().items()
    }
    alerts = {
        "names": {"enum": sorted(every)},
        "thresholds": {"type": "object", "additionalProperties": False, "properties": every},
    }
    return {**schema, "$defs": {**schema["$defs"], "alerts": alerts}}


if __name__ == "__main__":
    main()
