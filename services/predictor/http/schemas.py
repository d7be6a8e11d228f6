"""Request bodies with their limits, and their parsing.

Unknown fields are refused by name, and unsupported fields are accepted only with neutral values.
Validation errors of pydantic become one error with parameter and limit, and never quote the value.
"""

from typing import Annotated, Any, Literal, TypeVar

from aiohttp import web
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from services.predictor.errors import InvalidRequestError

StopText = Annotated[str, StringConstraints(min_length=1, max_length=256)]
TokenId = Annotated[int, Field(ge=0)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=128)]
MAX_SEED = 2**63 - 1
MAX_PROMPTS = 64
BodyT = TypeVar("BodyT", bound=BaseModel)
# Reasons by pydantic's error types. Other types mean a wrong type or form, except for those of
# `schema_error`.
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


def schema_error(reason: str, field: str, text: str, limit: str = "") -> PydanticCustomError:
    """Return an error about several fields.

    pydantic gives such an error no location, so its context names the reported field.
    """
    return PydanticCustomError(reason, "{text}", {"text": text, "field": field, "limit": limit})


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, content: Any) -> Any:
        """Drop null values, which OpenAI's clients send for omitted fields."""
        if isinstance(content, dict):
            return {key: value for key, value in content.items() if value is not None}
        return content


class StreamOptions(_Body):
    """Options of a stream; `include_usage` adds a last chunk with token counts."""

    include_usage: bool = False


class GenerationRequest(_Body):
    """Common fields of chat and completions.

    `user` and `metadata` are accepted and ignored.
    """

    model: Name
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0, le=100_000, description="0 keeps all")
    min_p: float = Field(0.0, ge=0, lt=1)
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    repetition_penalty: float = Field(1.0, gt=0, le=2)
    seed: int | None = Field(None, ge=0, le=MAX_SEED)
    stop: StopText | Annotated[list[StopText], Field(max_length=16)] | None = None
    stop_token_ids: list[TokenId] = Field([], max_length=64)
    ignore_eos: bool = False
    min_tokens: int = Field(0, ge=0)
    n: Literal[1] = 1
    return_token_ids: bool = Field(
        False, description="as in vLLM: each choice has token_ids, including the end token"
    )
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str | None = None
    metadata: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _check_consistency(self) -> "GenerationRequest":
        if self.ignore_eos and self.stop_token_ids:
            raise schema_error(
                "CONFLICT", "ignore_eos", "ignore_eos cannot be combined with stop_token_ids"
            )
        if self.stream_options is not None and not self.stream:
            raise schema_error("INCOMPLETE", "stream_options", "stream_options needs stream")
        if 0 < self.temperature < 0.01:
            raise schema_error(
                "OUT_OF_RANGE",
                "temperature",
                "temperature must be 0 (greedy) or at least 0.01",
                "0, or at least 0.01",
            )
        return self

    @property
    def stops(self) -> tuple[str, ...]:
        """Return the stop strings as a tuple."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


class TextPart(_Body):
    """A part of a message. Text only; images and audio are rejected."""

    type: Literal["text"]
    text: str


class ChatMessage(_Body):
    """One message; allowed roles are those of the model's template."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None

    def as_dict(self) -> dict[str, str]:
        """Return role and complete text in the form used by templates."""
        content = (
            self.content
            if isinstance(self.content, str)
            else "".join(part.text for part in self.content)
        )
        return {"role": self.role, "content": content}


class ChatRequest(GenerationRequest):
    """Body of POST /v1/chat/completions."""

    messages: list[ChatMessage] = Field(min_length=1, max_length=1024)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool = False
    top_logprobs: Literal[0] | None = None
    response_format: "TextFormat | None" = None

    @property
    def limit(self) -> int | None:
        """Return the limit of new tokens; max_completion_tokens takes precedence."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


class TextFormat(_Body):
    """The only supported response format."""

    type: Literal["text"]


class CompletionRequest(GenerationRequest):
    """Body of POST /v1/completions.

    A prompt is text or token ids; a list of prompts gives one choice for each.
    """

    prompt: str | list[TokenId] | list[str] | list[list[TokenId]]
    max_tokens: int = Field(16, ge=0)
    logprobs: int | None = Field(None, ge=0, le=1)
    echo: bool = False
    best_of: Literal[1] = 1
    suffix: None = None

    @model_validator(mode="after")
    def _check_combination(self) -> "CompletionRequest":
        if self.stream and (self.echo or len(self.prompts) != 1):
            raise schema_error("CONFLICT", "stream", "stream needs exactly one prompt, and no echo")
        if self.max_tokens == 0 and not self.echo:
            raise schema_error(
                "CONFLICT",
                "max_tokens",
                "max_tokens must be at least 1 unless echo is set",
                "at least 1",
            )
        if not 1 <= len(self.prompts) <= MAX_PROMPTS:
            raise schema_error(
                "OUT_OF_RANGE",
                "prompt",
                f"prompt must be 1 to {MAX_PROMPTS} prompts",
                f"1 to {MAX_PROMPTS}",
            )
        return self

    @property
    def prompts(self) -> list[str | list[int]]:
        """Return all prompts, each as text or ids; an empty list is one empty prompt."""
        prompt = self.prompt
        if isinstance(prompt, str):
            return [prompt]
        ids = [entry for entry in prompt if isinstance(entry, int)]
        several = [entry for entry in prompt if not isinstance(entry, int)]
        return [*several] if several else [ids]


class TokenizeRequest(_Body):
    """Body of POST /tokenize: a prompt, or messages for the chat template.

    Without `model` the only loaded version answers, as in vLLM.
    """

    model: Name | None = None
    prompt: str | None = None
    messages: list[ChatMessage] | None = Field(None, min_length=1, max_length=1024)
    add_special_tokens: bool = True
    add_generation_prompt: bool = True

    @model_validator(mode="after")
    def _check_source(self) -> "TokenizeRequest":
        if (self.prompt is None) == (self.messages is None):
            reason = "MISSING" if self.prompt is None else "CONFLICT"
            raise schema_error(reason, "prompt", "prompt or messages must be given, and not both")
        return self


class DetokenizeRequest(_Body):
    """Body of POST /detokenize with token ids; `model` as in TokenizeRequest."""

    model: Name | None = None
    tokens: list[TokenId] = Field(max_length=1_000_000)


class LoadParameters(_Body):
    """`directory` is an absolute path on the predictor's file system."""

    directory: str = Field(min_length=1, max_length=4096)


class LoadRequest(_Body):
    """Body of POST /v2/repository/models/{version}/load."""

    parameters: LoadParameters


class UnloadParameters(_Body):
    """Parameters of an unload request.

    `only_idle` refuses the unload while answers run. `unload_dependents` is a field of Triton and
    has no effect, since no version depends on another.
    """

    only_idle: bool = False
    unload_dependents: bool = False


class UnloadRequest(_Body):
    """Body of POST /v2/repository/models/{version}/unload."""

    parameters: UnloadParameters = UnloadParameters()


class IndexRequest(_Body):
    """Body of POST /v2/repository/index; `ready` selects versions that can answer."""

    ready: bool = False


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
