"""Jinja2 environment for templates that come with a model and are not trusted.

jinja2's sandbox keeps a template from Python's internals, but not from endless loops and texts of
gigabytes. This environment also knows only the filters, methods and functions that chat templates
use, and each render has a budget of steps, characters and processor time. Loops, calls, operators
and outputs are charged before they run; `_Charges` inserts the charges into the syntax tree.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import partial
from types import BuiltinMethodType
from typing import Any, NoReturn, cast

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from chat_format.errors import ChatFormatError

FIELD = "chat_template"
MAX_SOURCE_CHARACTERS = 256 * 1024
# Measured on 30 published templates (Llama 3, Qwen 2.5 to 3.8, Gemma 2 to 4 among them) with 200
# messages: at most 139 steps for each message and 10 characters for each of its characters.
STEPS, STEPS_EACH_MESSAGE = 100_000, 1_000
CHARACTERS, CHARACTERS_EACH = 1024 * 1024, 32
PROCESSOR_SECONDS = 5.0
MAX_NUMBER_BITS = 4096
FILTERS = frozenset(
    "abs capitalize count d default dictsort e escape first float int items join last length list "
    "lower map max min reject rejectattr replace reverse round safe select selectattr sort string "
    "title tojson trim unique upper".split()
)
METHODS = frozenset(
    "capitalize copy count endswith find get index isalnum isalpha isascii isdecimal isdigit "
    "islower isnumeric isspace istitle isupper items join keys lower lstrip partition removeprefix "
    "removesuffix replace rfind rindex rpartition rsplit rstrip split splitlines startswith strip "
    "swapcase title upper values".split()
)
_FORBIDDEN = (nodes.Extends, nodes.Include, nodes.Import, nodes.FromImport)


class TemplateRefusalError(Exception):
    """The template called raise_exception; the text is the template author's."""


class _Budget:
    """Remaining steps, characters and processor time of one render."""

    def __init__(self, messages: int, characters: int) -> None:
        self.now = datetime.now(UTC)
        self._steps = STEPS + STEPS_EACH_MESSAGE * messages
        self._characters = CHARACTERS + CHARACTERS_EACH * characters
        # Processor time of this thread: on a busy machine elapsed time says nothing.
        self._deadline = time.thread_time() + PROCESSOR_SECONDS

    def spend(self, steps: int, characters: int = 0) -> None:
        self._steps -= steps
        self._characters -= characters
        if self._steps < 0:
            raise _limit_error("runs too long", "steps")
        if self._characters < 0:
            raise _limit_error("writes too much text", "characters")
        if time.thread_time() > self._deadline:
            raise _limit_error("runs too long", f"{PROCESSOR_SECONDS:g} s of processor time")

    def spend_text(self, value: object) -> None:
        """Charge the characters of a value as text, before the text exists."""
        waiting = [value]
        while waiting:
            item = waiting.pop()
            if isinstance(item, str):
                self.spend(1, len(item))
            elif isinstance(item, Mapping):
                self.spend(1, len(item))
                waiting += [*item.keys(), *item.values()]
            elif isinstance(item, list | tuple):
                self.spend(1, len(item))
                waiting += item
            else:
                self.spend(1)

    def spend_size(self, value: object) -> None:
        """Charge the length of a string or collection, without its items."""
        self.spend(1, len(value) if isinstance(value, str | list | tuple | dict) else 0)


_BUDGET: ContextVar[_Budget] = ContextVar("budget")


@contextmanager
def budget(messages: int, characters: int) -> Iterator[None]:
    """Give the block a budget for a conversation of this size.

    Raises:
        ChatFormatError: the template exceeds the budget or uses something forbidden.
        TemplateRefusalError: the template refuses the conversation.
    """
    token = _BUDGET.set(_Budget(messages, characters))
    try:
        yield
    except (ChatFormatError, TemplateRefusalError):
        raise
    except SecurityError as error:
        raise ChatFormatError(f"chat_template: {error}", field=FIELD, reason="FORBIDDEN") from error
    except RecursionError as error:
        raise _limit_error("calls itself too deeply", "the depth of calls") from error
    except (jinja2.TemplateError, ArithmeticError, AttributeError, LookupError) as error:
        raise _malformed_error() from error
    except (MemoryError, SyntaxError, TypeError, ValueError) as error:
        raise _malformed_error() from error
    finally:
        _BUDGET.reset(token)


class TemplateEnvironment(ImmutableSandboxedEnvironment):
    """Environment that Hugging Face templates expect (chat_template_utils), with limits."""

    intercepted_binops = frozenset({"+", "*", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        self.filters = {name: self.filters[name] for name in FILTERS} | {
            "join": _join,
            "replace": _replace,
            "string": _string,
            "tojson": _tojson,
            "_counted": _counted,
            "_shown": _shown,
            "_sized": _sized,
            "_joined": _joined,
        }
        self.globals = {
            "range": self.globals["range"],  # at most 100,000 numbers
            "namespace": Namespace,
            "raise_exception": _refuse,
            "strftime_now": lambda pattern: _BUDGET.get().now.strftime(str(pattern)),
        }
        self._functions = list(self.globals.values())
        self._literal_characters = 0

    def compile_template(self, source: str) -> jinja2.Template:
        """Check and compile a template; one for each environment.

        Raises:
            ChatFormatError: the template is malformed, too large, or uses something forbidden.
        """
        if len(source) > MAX_SOURCE_CHARACTERS:
            raise _limit_error("is too large", f"{MAX_SOURCE_CHARACTERS} characters")
        with budget(0, len(source)):
            tree = self.parse(source)
            _check(tree)
            self._literal_characters = _literal_characters(tree)
            return self.from_string(_Charges().visit(tree))

    def is_safe_callable(self, obj: Any) -> bool:
        """Permit macros, functions of this environment, and the methods of `METHODS`."""
        if isinstance(obj, BuiltinMethodType):
            return isinstance(obj.__self__, str | dict | list) and obj.__name__ in METHODS
        if isinstance(getattr(obj, "__self__", None), LoopContext):
            return obj.__name__ in ("cycle", "changed")
        return isinstance(obj, Macro) or any(obj is function for function in self._functions)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Charge and run a call."""
        charged, function = _BUDGET.get(), __obj
        charged.spend(1, __self._literal_characters if isinstance(__obj, Macro) else 0)
        if not __self.is_safe_callable(__obj):
            raise SecurityError("a function that is not available is called")
        if isinstance(__obj, BuiltinMethodType) and __obj.__name__ == "join":
            function = partial(_join, separator=str(__obj.__self__))
        elif isinstance(__obj, BuiltinMethodType) and __obj.__name__ == "replace":
            function = partial(_replace, __obj.__self__)
        found = __context.call(function, *args, **kwargs)
        charged.spend_size(found)
        return found

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Charge and run an operator whose result may be larger than its operands."""
        charged, sized = _BUDGET.get(), str | list | tuple
        if operator == "%" and isinstance(left, str):
            raise SecurityError("formatting by % is not available")
        if operator == "*" and isinstance(left, sized):
            charged.spend(1, len(left) * max(0, int(right)))
        elif operator == "*" and isinstance(right, sized):
            charged.spend(1, len(right) * max(0, int(left)))
        elif operator == "*" and isinstance(left, int) and isinstance(right, int):
            if left.bit_length() + right.bit_length() > MAX_NUMBER_BITS:
                raise _limit_error("calculates with too large numbers", f"{MAX_NUMBER_BITS} bits")
        else:
            charged.spend_size(left)
            charged.spend_size(right)
        return super().call_binop(context, operator, left, right)


class _Charges(NodeTransformer):
    """Wraps loops, outputs, filters and joined texts into filters that charge them."""

    def visit_For(self, node: nodes.For, *args: Any) -> nodes.Node:
        literal = nodes.Const(_literal_characters(node))
        self.generic_visit(node)
        node.iter = _wrapped(node.iter, "_counted", literal)
        return node

    def visit_Output(self, node: nodes.Output, *args: Any) -> nodes.Node:
        self.generic_visit(node)
        node.nodes = [
            item if isinstance(item, nodes.TemplateData) else _wrapped(item, "_shown")
            for item in node.nodes
        ]
        return node

    def visit_Filter(self, node: nodes.Filter, *args: Any) -> nodes.Node:
        self.generic_visit(node)
        # Without a node: the filter of a block, which jinja2 applies to the block's text.
        return node if node.node is None else _wrapped(node, "_sized")

    def visit_Concat(self, node: nodes.Concat, *args: Any) -> nodes.Node:
        self.generic_visit(node)
        return _wrapped(nodes.List(node.nodes, lineno=node.lineno), "_joined")


def _wrapped(node: nodes.Node, name: str, *args: nodes.Expr) -> nodes.Expr:
    return nodes.Filter(
        cast(nodes.Expr, node), name, list(args), [], None, None, lineno=node.lineno
    )


def _check(tree: nodes.Template) -> None:
    """Refuse parts that no chat template needs, with their names."""
    for node in tree.find_all(nodes.Node):
        found = ""
        if isinstance(node, _FORBIDDEN):
            found = f"the tag {type(node).__name__.lower()}"
        elif isinstance(node, nodes.For) and node.recursive:
            found = "a recursive loop"
        elif isinstance(node, nodes.Pow):
            found = "the operator **"
        elif isinstance(node, nodes.Filter) and node.name not in FILTERS:
            found = f"the filter {node.name[:40]!r}"
        elif isinstance(node, nodes.Getattr) and node.attr.startswith("_"):
            found = f"the attribute {node.attr[:40]!r}"
        if found:
            raise ChatFormatError(
                f"chat_template, line {node.lineno}: {found} is not available",
                field=FIELD,
                reason="FORBIDDEN",
            )


def _literal_characters(node: nodes.Node) -> int:
    return sum(len(data.data) for data in node.find_all(nodes.TemplateData))


def _counted(value: Any, literal_characters: int) -> list[Any]:
    """Return the items of a loop, charged together with the literal text of its body."""
    items = list(value)
    _BUDGET.get().spend(len(items) + 1, len(items) * literal_characters)
    return items


def _shown(value: Any) -> Any:
    _BUDGET.get().spend_text(value)
    return value


def _sized(value: Any) -> Any:
    _BUDGET.get().spend_size(value)
    return value


def _joined(parts: list[Any]) -> str:
    for part in parts:
        _BUDGET.get().spend_text(part)
    return "".join(map(str, parts))


def _string(value: Any) -> str:
    _BUDGET.get().spend_text(value)
    return str(value)


def _join(value: Iterable[Any], separator: str = "", attribute: str | None = None) -> str:
    """Replace jinja2's filter and str.join by one that charges first."""
    charged, separator = _BUDGET.get(), str(separator)
    items = list(value) if attribute is None else [item[attribute] for item in value]
    charged.spend(len(items), len(items) * len(separator))
    charged.spend_text(items)
    return separator.join(map(str, items))


def _replace(text: Any, old: str, new: str, count: int | None = None) -> str:
    """Replace jinja2's filter and str.replace by one that charges first."""
    given, old, new = str(text), str(old), str(new)
    _BUDGET.get().spend(1, len(given) + given.count(old) * len(new))
    return given.replace(old, new, -1 if count is None else count)


def _tojson(value: Any, indent: int | None = None, **options: Any) -> str:
    """Return JSON as Hugging Face templates expect it: without escapes for HTML."""
    _BUDGET.get().spend_text(value)
    if isinstance(indent, int) and not 0 <= indent <= 8:
        raise _limit_error("indents JSON too far", "0 to 8 characters")
    return json.dumps(
        value,
        ensure_ascii=bool(options.get("ensure_ascii", False)),
        indent=indent,
        separators=options.get("separators"),
        sort_keys=bool(options.get("sort_keys", False)),
    )


def _refuse(text: object = "") -> NoReturn:
    raise TemplateRefusalError(str(text)[:200])


def _limit_error(finding: str, limit: str) -> ChatFormatError:
    return ChatFormatError(
        f"chat_template {finding}; limited are {limit}", field=FIELD, reason="LIMIT", limit=limit
    )


def _malformed_error() -> ChatFormatError:
    return ChatFormatError(
        "chat_template cannot be read or cannot render messages", field=FIELD, reason="MALFORMED"
    )
