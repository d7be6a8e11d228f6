"""Parsing of request bodies.

Validation errors of pydantic become one error with parameter and limit, and never quote the value.
"""

from typing import TypeVar

from aiohttp import web
from pydantic import BaseModel, ValidationError

from services.predictor.errors import InvalidRequestError

BodyT = TypeVar("BodyT", bound=BaseModel)
# Reasons by pydantic's error types. Other types mean a wrong type or form, except for those of
# `schemas.schema_error`.
REASONS = {
    "missing": "MISSING",
    "literal_error": "UNSUPPORTED",
    "greater_than": "OUT_OF_RANGE",
    "greater_than_equal": "OUT_OF_RANGE",
    "less_than": "OUT_OF_RANGE",
    "less_than_equal": "OUT_OF_RANGE",
    "finite_number": "NOT_FINITE",
    "too_short": "TOO_SMALL",
    "string_too_short": "TOO_SMALL",
    "too_long": "TOO_LARGE",
    "string_too_long": "TOO_LARGE",
}
# Texts of limits by keys of pydantic's error context, which never contains the value.
LIMITS = {
    "gt": "above {}",
    "ge": "at least {}",
    "lt": "below {}",
    "le": "at most {}",
    "min_length": "at least {}",
    "max_length": "at most {}",
    "expected": "{}",
    "limit": "{}",
}


async def parse_body(
    request: web.Request, schema: type[BodyT], empty_is_default: bool = False
) -> BodyT:
    """Read and check a JSON body.

    Raises:
        InvalidRequestError: the body is not UTF-8, is not JSON, or violates a limit.
    """
    raw = await request.read()
    if not raw and empty_is_default:
        return schema()
    try:
        raw.decode()
        return schema.model_validate_json(raw)
    except UnicodeDecodeError as error:
        raise InvalidRequestError(
            "the body must be UTF-8", field="body", reason="MALFORMED", limit="UTF-8"
        ) from error
    except ValidationError as error:
        raise _error_from(error) from error


def _error_from(error: ValidationError) -> InvalidRequestError:
    """Return one of the errors found.

    A union has one error per branch; the branch of the right type contains the limit.
    """
    found = error.errors(include_url=False, include_input=False)
    first = next((entry for entry in found if not entry["type"].endswith("_type")), found[0])
    # pydantic adds the names of a union's branches ("str", "list[...]") to the path.
    path = ".".join(
        str(part)
        for part in first["loc"]
        if isinstance(part, int) or (part.isidentifier() and part not in {"str", "int"})
    )
    if first["type"] == "json_invalid":
        return InvalidRequestError(
            "the body must be valid JSON", field="body", reason="MALFORMED", limit="JSON"
        )
    if first["type"] == "model_type" and not path:
        return InvalidRequestError(
            "the body must be a JSON object",
            field="body",
            reason="MALFORMED",
            limit="a JSON object",
        )
    if first["type"] == "extra_forbidden":
        return InvalidRequestError(f"{path} is not a parameter", path, reason="UNKNOWN")
    text, context = first["msg"], first.get("ctx", {})
    key = next((key for key in LIMITS if key in context), "")
    value = context.get(key, "")
    limit = LIMITS[key].format(f"{value:g}" if isinstance(value, float) else value) if key else ""
    if not path:
        return InvalidRequestError(text, context.get("field"), reason=first["type"], limit=limit)
    reason = REASONS.get(first["type"], "MALFORMED")
    return InvalidRequestError(
        f"{path}: {text[:1].lower()}{text[1:]}", path, reason=reason, limit=limit
    )
