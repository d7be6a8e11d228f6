"""Generate docs/settings.md: every setting of the services, from their settings classes.

`--check` compares and writes nothing.
"""

from importlib import import_module
from pathlib import Path

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from infra.docs.output import write_or_compare
from infra.run.vllm_server.settings import VllmServerSettings
from infra.service_table import service_table

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "settings.md"
HEAD = """# Settings

Generated from the code by `python -m infra.docs.settings`; `make check` compares. Every setting is
an environment variable of the process, for example `TW_GATEWAY_PORT`. In the values of the chart,
settings have their own names under `services.NAME.settings` or `serving.predictor.settings`, for
example `max_turns: 300`. Helm and the services reject unknown names and list the known ones. A
service with invalid values does not start and prints a line per invalid setting. `vllm_server` is
no service: it takes the place of the predictor on a machine without Kubernetes
([serving by vLLM](training.md#serving-by-vllm-without-kubernetes)).
"""


def main() -> None:
    write_or_compare(
        PAGE,
        page(),
        "docs/settings.md is stale: run python -m infra.docs.settings",
    )


def page() -> str:
    """Return the whole page with a table per service."""
    common = common_fields()
    shared = {name: (field.default, field.description) for name, field in common.items()}
    parts = [HEAD, _table("every service but the predictor", common)]
    for service in service_table().names:
        own = settings_class(service).model_fields
        parts.append(
            _table(
                service,
                {
                    name: field
                    for name, field in own.items()
                    if (field.default, field.description) != shared.get(name)
                },
            )
        )
    parts.append(_table("vllm_server", VllmServerSettings.model_fields))
    return "".join(parts)


def common_fields() -> dict[str, FieldInfo]:
    """Return the settings that all services except the predictor share."""
    settings = import_module("services.chassis.settings").ServiceSettings
    return settings.model_fields  # type: ignore[no-any-return]


def settings_class(service: str) -> type[BaseSettings]:
    """Return the settings class of a service."""
    module = import_module(f"services.{service}.settings")
    return getattr(module, f"{service.title()}Settings")  # type: ignore[no-any-return]


def _table(title: str, fields: dict[str, FieldInfo]) -> str:
    rows = "".join(
        f"| `{name}` | {_default(field)} | {(field.description or '').replace('|', '&#124;')} |\n"
        for name, field in fields.items()
    )
    return f"\n## {title}\n\n| setting | default | |\n|---|---|---|\n{rows}"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True, validated_data={})
    if isinstance(value, SecretStr) or value in ("", None, (), []):
        return "none"
    if isinstance(value, Path) and value.is_relative_to(ROOT):
        value = value.relative_to(ROOT)  # independent of the location of the clone
    return f"`{value}`"


if __name__ == "__main__":
    main()
