"""lm-eval's interface to a model, on top of an endpoint.

lm-eval's own client of completions is not used: it generates a token for each scored prompt, and
has no error for a prompt that an endpoint refuses. The tokenization of pairs, which decides which
tokens are scored, is lm-eval's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lm_eval.api.model import TemplateLM
from tokenizers import Tokenizer

from training.benchmarks.models import EvaluatedModel
from training.serving.connection import RefusedError
from training.serving.endpoint import Completion

DEFAULT_ANSWER_TOKENS = 256  # as in lm-eval


class EndpointModel(TemplateLM):  # type: ignore[misc]
    """Model behind an endpoint, for lm-eval's tasks.

    Attributes:
        shortened: number of requests whose prompt lost its beginning to fit into the window.
    """

    def __init__(self, model: EvaluatedModel) -> None:
        """Read the tokenizer of a directory; an endpoint without one tokenizes remotely."""
        super().__init__()
        self._model = model
        self.shortened = 0
        self._encode: Callable[[str, bool], list[int]] = model.endpoint.tokenize
        if model.directory is not None:
            tokenizer = Tokenizer.from_file(str(model.directory / "tokenizer.json"))
            tokenizer.no_padding()
            tokenizer.no_truncation()
            # The same file and rules as in the model server, without a request for each text.
            self._encode = lambda text, special: list(
                tokenizer.encode(text, add_special_tokens=special).ids
            )

    @property
    def eot_token_id(self) -> int:
        """Return the end token, the context of a continuation without context."""
        ids = self._encode(str(self._model.endpoint.tokenizer_info()["eos_token"]), False)
        if len(ids) != 1:
            raise RefusedError("eos_token is not a single token", field="eos_token", limit="1")
        return ids[0]

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """Return the ids of a text, by default with the tokenizer's own special tokens."""
        return self._encode(string, add_special_tokens is not False)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[tuple[str, str], list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        """Return the log-prob of each continuation, and True if it is the greedy one."""
        # Model servers reserve one token for an answer.
        limit = self._model.window_tokens - 1
        prompts, scored = [], []
        for _texts, context, continuation in requests:
            prompt = [*context, *continuation]
            self.shortened += len(prompt) > limit
            prompts.append(prompt[-limit:])
            # The first token of a prompt has no log-prob.
            scored.append(min(len(continuation), limit - 1))
        found = self._model.endpoint.log_probs(prompts)
        return [
            (sum(one.log_probs[-count:]), all(one.greedy[-count:])) if count else (0.0, True)
            for one, count in zip(found, scored, strict=True)
        ]

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
        """Refuse: `thumbwheel evaluate perplexity` measures whole texts."""
        raise NotImplementedError("whole texts are measured by training.benchmarks.perplexity")

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Return the greedy answer to each prompt, up to a stop text or the task's limit."""
        settings = [
            (int(options.get("max_gen_toks", DEFAULT_ANSWER_TOKENS)), tuple(options["until"]))
            for _context, options in (request.args for request in requests)
        ]
        texts: dict[int, str] = {}
        for max_tokens, stop in dict.fromkeys(settings):
            places = [place for place, found in enumerate(settings) if found == (max_tokens, stop)]
            completions = self.complete(
                [requests[place].args[0] for place in places], max_tokens, stop
            )
            texts |= dict(zip(places, (one.text for one in completions), strict=True))
        return [texts[place] for place in range(len(requests))]

    def complete(
        self,
        prompts: Sequence[str],
        max_tokens: int,
        stop: Sequence[str],
        temperature: float = 0.0,
        seed: int | None = None,
    ) -> list[Completion]:
        """Continue each prompt; arguments and errors are those of `Endpoint.complete`.

        An answer gets at most half of the window, and a prompt that does not fit beside it loses
        its beginning.
        """
        new_tokens = min(max_tokens, self._model.window_tokens // 2)
        limit = self._model.window_tokens - new_tokens
        ids = [self.tok_encode(prompt) for prompt in prompts]
        self.shortened += sum(len(prompt) > limit for prompt in ids)
        kept = [prompt[-limit:] for prompt in ids]
        return self._model.endpoint.complete(kept, new_tokens, stop, temperature, seed)
