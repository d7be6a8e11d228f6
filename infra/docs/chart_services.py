"""Generate the service table of the chart: files/services.yaml, and the services of the schema.

`--check` compares and writes nothing. Helm reads only files inside of a chart. Of
values.schema.json only `properties.services.properties` is written.
"""

import json
from typing import Any

from infra.docs.chart import CHART, SCHEMA
from infra.docs.output import write_or_compare
from infra.service_table import Service, ServiceTable, service_table

FILE = CHART / "files" / "services.yaml"
HEAD = """# Generated from services/services.toml. Do not edit.
# Written by `python -m infra.docs.chart_services`. Services with a gRPC server; templates read this
# file as `thumbwheel.known`.
"""
FACTS = ("http", "valkey", "models", "spool", "kafka", "objects")


def main() -> None:
    table = service_table()
    complaint = "is stale: run python -m infra.docs.chart_services"
    write_or_compare(
        FILE, services_yaml(table), f"charts/thumbwheel/files/services.yaml {complaint}"
    )
    schema = json.dumps(with_services(json.loads(SCHEMA.read_text()), table), indent=1) + "\n"
    write_or_compare(SCHEMA, schema, f"charts/thumbwheel/values.schema.json {complaint}")


def services_yaml(table: ServiceTable) -> str:
    """Return the text of files/services.yaml, one line for each service."""
    lines = [f"{service.name}: {json.dumps(facts(service))}\n" for service in table.grpc]
    return HEAD + "".join(lines)


def facts(service: Service) -> dict[str, Any]:
    """Return the facts of a service that templates read; absent facts are false or empty.

    `database` is the key of the URL in the secret, and the name of the database with evaluation
    stores.
    """
    found: dict[str, Any] = {"port": service.port, "calls": list(service.calls)}
    found |= {name: True for name in FACTS if getattr(service, name)}
    if service.database:
        found |= {"database": service.name, "driver": service.database.driver}
    if service.keys:
        found["keys"] = list(service.keys)
    if service.prepare:
        found["prepare"] = list(service.prepare)
    return found


def with_services(schema: dict[str, Any], table: ServiceTable) -> dict[str, Any]:
    """Return the schema with the values of the services of the table."""
    services = {
        **schema["properties"]["services"],
        "properties": {
            service.name: _values_schema(service, schema["$defs"]["service"])
            for service in table.grpc
        },
    }
    return {**schema, "properties": {**schema["properties"], "services": services}}


def _values_schema(service: Service, usual: dict[str, Any]) -> dict[str, Any]:
    settings = {"$ref": f"#/$defs/settingsOf/{service.name}"}
    if not service.spool:
        return {"allOf": [{"$ref": "#/$defs/service"}, {"properties": {"settings": settings}}]}
    # `additionalProperties: false` of the common definition refuses a further property, so that the
    # definition cannot be extended by `allOf`.
    spool = {
        "type": "object",
        "additionalProperties": False,
        "properties": {"size": {"$ref": "#/$defs/size"}, "storageClass": {"type": "string"}},
        # Neither these values nor their group can be null.
        "required": ["size", "storageClass"],
    }
    properties = {
        **usual["properties"],
        "settings": {"allOf": [{"$ref": "#/$defs/settings"}, settings]},
        "spool": spool,
    }
    return {**usual, "properties": properties, "required": [*usual.get("required", ()), "spool"]}


if __name__ == "__main__":
    main()
