"""Bodies to schemas. What pydantic finds becomes one error that names parameter and limit, and never quotes the value."""

from typing import TypeVar

from aiohttp import web
from pydantic import BaseModel, ValidationError

from services.predictor.errors import InvalidRequestError

BodyT = TypeVar("BodyT", bound=BaseModel)


async def parse_body(request: web.Request, schema: type[BodyT], empty_is_default: bool = False) -> BodyT:
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
        raise InvalidRequestError("the body must be UTF-8") from error
    except ValidationError as error:
        raise _named(error) from error


def _named(error: ValidationError) -> InvalidRequestError:
    """One error of those found. For a union there is one a branch: the branch of the right type says what the limit is."""
    found = error.errors(include_url=False, include_input=False, include_context=False)
    first = next((one for one in found if not one["type"].endswith("_type")), found[0])
    path = ".".join(str(part) for part in first["loc"] if isinstance(part, int) or _is_field(part))
    if first["type"] == "json_invalid":
        return InvalidRequestError("the body must be valid JSON")
    if first["type"] == "model_type" and not path:
        return InvalidRequestError("the body must be a JSON object")
    if first["type"] == "extra_forbidden":
        return InvalidRequestError(f"{path} is not a parameter", path)
    text = first["msg"].removeprefix("Value error, ")
    if not path:
        return InvalidRequestError(text, text.split()[0])
    return InvalidRequestError(f"{path}: {text[:1].lower()}{text[1:]}", path)


def _is_field(part: str) -> bool:
    """Whether a step of the path is a field, and not the name that pydantic gives to a branch of a union."""
    return part.isidentifier() and part not in {"str", "int"}
