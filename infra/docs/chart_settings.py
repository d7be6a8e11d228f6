"""Writes into the chart's values.schema.json which settings each service has, by their classes.
`--check` compares and writes nothing.

Only `$defs.settingsOf` of that file is written. A name that is mistyped is refused by Helm, and not
by a pod that starts again and again.
"""

import json
from typing import Any

from infra.docs.chart import CHART
from infra.docs.settings import SERVICES, common_fields, settings_class
from infra.docs.written import write_or_compare

SCHEMA = CHART / "values.schema.json"
# Pods have them out of secrets: in the values they would stand in the open, and count for nothing.
OUT_OF_SECRETS = frozenset(
    (
        *("principal_key", "master_key", "database_url", "valkey_url", "valkey_secret"),
        *("kafka_username", "kafka_password", "s3_access_key", "s3_secret_key"),
    )
)


def main() -> None:
    text = json.dumps(with_settings(json.loads(SCHEMA.read_text())), indent=1) + "\n"
    complaint = (
        "the chart's schema has not the services' settings: run python -m infra.docs.chart_settings"
    )
    write_or_compare(SCHEMA, text, complaint)


def with_settings(schema: dict[str, Any]) -> dict[str, Any]:
    """The same schema with the names as the code has them; `every` are those that all services but
    the predictor have.
    """
    fields = {
        "every": common_fields(),
        **{name: settings_class(name).model_fields for name in SERVICES},
    }
    names = {
        name: {"propertyNames": {"enum": sorted({*those} - OUT_OF_SECRETS)}}
        for name, those in fields.items()
    }
    return {**schema, "$defs": {**schema["$defs"], "settingsOf": names}}


if __name__ == "__main__":
    main()
