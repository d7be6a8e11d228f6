"""Generate the names of service settings in the chart's values.schema.json.

`--check` compares and writes nothing. Only `$defs.settingsOf` of the file is written. With these
names Helm rejects a misspelt setting; otherwise the pod would restart repeatedly.
"""

import json
from typing import Any

from infra.docs.chart import SCHEMA
from infra.docs.output import write_or_compare
from infra.docs.settings import common_fields, settings_class
from infra.service_table import service_table

# Pods receive these settings from secrets. A value in values.yaml would be readable and without
# effect.
OUT_OF_SECRETS = frozenset(
    (
        *("principal_key", "master_key", "model_server_key"),
        *("database_url", "valkey_url", "valkey_secret"),
        *("kafka_username", "kafka_password", "s3_access_key", "s3_secret_key"),
    )
)


def main() -> None:
    text = json.dumps(with_settings(json.loads(SCHEMA.read_text())), indent=1) + "\n"
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
        name: {"propertyNames": {"enum": sorted({*those} - OUT_OF_SECRETS)}}
        for name, those in fields.items()
    }
    return {**schema, "$defs": {**schema["$defs"], "settingsOf": names}}


if __name__ == "__main__":
    main()
