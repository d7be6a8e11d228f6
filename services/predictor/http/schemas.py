"""Request bodies, with their limits. Unknown fields are refused by name; fields that we cannot
honour may only be neutral.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

StopText = Annotated[str, StringConstraints(min_length=1, max_length=256)]
TokenId = Annotated[int, Field(ge=0)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=128)]
MAX_SEED = 2**63 - 1
MAX_PROMPTS = 64


def wrong(reason: str, field: str, text: str, limit: str = "") -> PydanticCustomError:
    """An error of several fields together: pydantic gives it no location, so its context names the
    one that is told.
    """
    return PydanticCustomError(reason, "{text}", {"text": text, "field": field, "limit": limit})


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, content: Any) -> Any:
        """OpenAI's clients may send null for what they leave out."""
        if isinstance(content, dict):
            return {key: value for key, value in content.items() if value is not None}
        return content


class StreamOptions(_Body):
    """`include_usage` adds a last chunk with token counts."""

    include_usage: bool = False


class Generating(_Body):
    """What chat and completions have in common. `user` and `metadata` are accepted and not kept."""

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
        False, description="vLLM's: each choice has token_ids, the end token among them"
    )
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str | None = None
    metadata: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "Generating":
        if self.ignore_eos and self.stop_token_ids:
            raise wrong(
                "CONFLICT", "ignore_eos", "ignore_eos cannot be combined with stop_token_ids"
            )
        if self.stream_options is not None and not self.stream:
            raise wrong("INCOMPLETE", "stream_options", "stream_options needs stream")
        if 0 < self.temperature < 0.01:
            raise wrong(
                "OUT_OF_RANGE",
                "temperature",
                "temperature must be 0 (greedy) or at least 0.01",
                "0, or at least 0.01",
            )
        return self

    @property
    def stops(self) -> tuple[str, ...]:
        """Stop strings, one or several."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


class TextPart(_Body):
    """A part of a message. Only text: there is no eye and no ear."""

    type: Literal["text"]
    text: str


class ChatMessage(_Body):
    """One message. Roles are those that the model's template knows."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None

    def plain(self) -> dict[str, str]:
        """Role and whole text, as templates want them."""
        content = (
            self.content
            if isinstance(self.content, str)
            else "".join(part.text for part in self.content)
        )
        return {"role": self.role, "content": content}


class ChatRequest(Generating):
    """POST /v1/chat/completions."""

    messages: list[ChatMessage] = Field(min_length=1, max_length=1024)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool = False
    top_logprobs: Literal[0] | None = None
    response_format: "TextFormat | None" = None

    @property
    def limit(self) -> int | None:
        """New tokens at most; the newer name wins."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


class TextFormat(_Body):
    """The only format that we write."""

    type: Literal["text"]


class CompletionRequest(Generating):
    """POST /v1/completions. A prompt is text or token ids; a list of them gives as many choices."""

    prompt: str | list[TokenId] | list[str] | list[list[TokenId]]
    max_tokens: int = Field(16, ge=0)
    logprobs: int | None = Field(None, ge=0, le=1)
    echo: bool = False
    best_of: Literal[1] = 1
    suffix: None = None

    @model_validator(mode="after")
    def _possible(self) -> "CompletionRequest":
        if self.stream and (self.echo or len(self.prompts) != 1):
            raise wrong("CONFLICT", "stream", "stream needs exactly one prompt, and no echo")
        if self.max_tokens == 0 and not self.echo:
            raise wrong(
                "CONFLICT",
                "max_tokens",
                "max_tokens must be at least 1 unless echo is set",
                "at least 1",
            )
        if not 1 <= len(self.prompts) <= MAX_PROMPTS:
            raise wrong(
                "OUT_OF_RANGE",
                "prompt",
                f"prompt must be 1 to {MAX_PROMPTS} prompts",
                f"1 to {MAX_PROMPTS}",
            )
        return self

    @property
    def prompts(self) -> list[str | list[int]]:
        """All prompts, each a text or ids. An empty list is one empty prompt."""
        prompt = self.prompt
        if isinstance(prompt, str):
            return [prompt]
        ids = [entry for entry in prompt if isinstance(entry, int)]
        several = [entry for entry in prompt if not isinstance(entry, int)]
        return [*several] if several else [ids]


class TokenizeRequest(_Body):
    """POST /tokenize: a prompt, or messages through the chat template."""

    model: Name
    prompt: str | None = None
    messages: list[ChatMessage] | None = Field(None, min_length=1, max_length=1024)
    add_special_tokens: bool = True
    add_generation_prompt: bool = True

    @model_validator(mode="after")
    def _one_source(self) -> "TokenizeRequest":
        if (self.prompt is None) == (self.messages is None):
            reason = "MISSING" if self.prompt is None else "CONFLICT"
            raise wrong(reason, "prompt", "prompt or messages must be given, and not both")
        return self


class DetokenizeRequest(_Body):
    """POST /detokenize."""

    model: Name
    tokens: list[TokenId] = Field(max_length=1_000_000)


class LoadParameters(_Body):
    """`directory` is absolute, on the predictor's own file system."""

    directory: str = Field(min_length=1, max_length=4096)


class LoadRequest(_Body):
    """POST /v2/repository/models/{version}/load."""

    parameters: LoadParameters


class UnloadParameters(_Body):
    """`only_idle` refuses while answers run. `unload_dependents` is Triton's; nothing here depends
    on a version.
    """

    only_idle: bool = False
    unload_dependents: bool = False


class UnloadRequest(_Body):
    """POST /v2/repository/models/{version}/unload."""

    parameters: UnloadParameters = UnloadParameters()


class IndexRequest(_Body):
    """POST /v2/repository/index. `ready` keeps only versions that can answer."""

    ready: bool = False
