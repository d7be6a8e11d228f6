"""Bodies to schemas. What pydantic finds becomes one error that names parameter and limit, and
never quotes the value.
"""

from typing import TypeVar

from aiohttp import web
from pydantic import BaseModel, ValidationError

from services.predictor.errors import InvalidRequestError

BodyT = TypeVar("BodyT", bound=BaseModel)
# pydantic's error types by our reasons. What is not here is of a wrong type or form, but for the
# errors of `schemas.wrong`.
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
# What pydantic tells beside a type: never the value that was given.
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
        InvalidRequestError: it is no UTF-8, no JSON, or breaks a limit.
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
        raise _named(error) from error


def _named(error: ValidationError) -> InvalidRequestError:
    """One error of those found. For a union there is one a branch: the branch of the right type
    says what the limit is.
    """
    found = error.errors(include_url=False, include_input=False)
    first = next((one for one in found if not one["type"].endswith("_type")), found[0])
    path = ".".join(str(part) for part in first["loc"] if isinstance(part, int) or _is_field(part))
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
    limit = next(
        (words.format(_plain(context[key])) for key, words in LIMITS.items() if key in context), ""
    )
    if not path:
        return InvalidRequestError(text, context.get("field"), reason=first["type"], limit=limit)
    reason = REASONS.get(first["type"], "MALFORMED")
    return InvalidRequestError(
        f"{path}: {text[:1].lower()}{text[1:]}", path, reason=reason, limit=limit
    )


def _plain(value: float | str) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _is_field(part: str) -> bool:
    """Whether a step of the path is a field, and not the name that pydantic gives to a branch of a
    union.
    """
    return part.isidentifier() and part not in {"str", "int"}
