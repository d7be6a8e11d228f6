"""Events of a turn as OpenAI chat completions, whole and in chunks.

The id contains the message id for feedback.
"""

import time
from dataclasses import dataclass, field
from typing import Any

from services.contracts.chat import FinishReason, Usage
from services.gateway.turns.events import Completed, Started, TextDelta, TurnEvent

ID_PREFIX = "chatcmpl-"
# FAILED is absent, because a failed turn ends with an error.
FINISH_REASONS = {
    FinishReason.STOP: "stop",
    FinishReason.LENGTH: "length",
    FinishReason.CANCELLED: "stop",
    FinishReason.INPUT_BLOCKED: "content_filter",
    FinishReason.OUTPUT_BLOCKED: "content_filter",
}


@dataclass
class Completion:
    """One answer in OpenAI's format, built event by event."""

    model: str
    include_usage: bool = False
    text: str = ""
    finish_reason: str | None = None
    usage: Usage = field(default_factory=Usage)
    message_id: str = ""
    created: int = field(default_factory=lambda: int(time.time()))

    def take(self, turn_event: TurnEvent) -> list[dict[str, Any]]:
        """Apply an event. Returns the chunks for a streaming client."""
        self.message_id = turn_event.message_id
        match turn_event.event:
            case Started() as started:
                self.model = started.model_version or self.model
                return [self._chunk({"role": "assistant", "content": ""})]
            case TextDelta(text):
                self.text += text
                return [self._chunk({"content": text})]
            case Usage() as usage:
                self.usage = usage
            case Completed(reason) if reason in FINISH_REASONS:
                self.finish_reason = FINISH_REASONS[reason]
                chunks = [self._chunk({})]
                if self.include_usage:
                    head = self._head("chat.completion.chunk")
                    chunks.append({**head, "choices": [], "usage": self._usage()})
                return chunks
        return []

    def whole(self) -> dict[str, Any]:
        """Return the complete answer."""
        message = {"role": "assistant", "content": self.text, "refusal": None}
        choice = {
            "index": 0,
            "message": message,
            "logprobs": None,
            "finish_reason": self.finish_reason,
        }
        return {**self._head("chat.completion"), "choices": [choice], "usage": self._usage()}

    def _chunk(self, delta: dict[str, str]) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": self.finish_reason}
        usage = {"usage": None} if self.include_usage else {}
        return {**self._head("chat.completion.chunk"), "choices": [choice], **usage}

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": ID_PREFIX + self.message_id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": None,
        }

    def _usage(self) -> dict[str, int]:
        prompt, completion = self.usage.prompt_tokens, self.usage.completion_tokens
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        }


def model_entry(name: str) -> dict[str, Any]:
    """Return one entry of /v1/models. The creation time is only in the version's manifest."""
    return {"id": name, "object": "model", "created": 0, "owned_by": "thumbwheel"}
