"""Label selectors with exactly the API server's grammar and meaning, for lists answered from a cache.

References: https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors;
k8s.io/apimachinery/pkg/labels/selector.go, whose productions this follows, oddities included.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from manifestry.core import errors

KEY_MAX_LENGTH = 253 + 1 + 63
VALUE_MAX_LENGTH = 63
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")
_TOKEN = re.compile(r"[ \t\r\n]*(==|!=|[=!(),<>]|[^ \t\r\n=!(),<>]+)")
_WORD_OPERATORS = frozenset({"in", "notin"})
_SYMBOL_OPERATORS = frozenset({"=", "==", "!=", ">", "<"})
_SYMBOLS = _SYMBOL_OPERATORS | {"!", "(", ")", ","}
_INT64 = 1 << 63
_END = ""

Labels = Mapping[str, str]


@dataclass(frozen=True)
class Requirement:
    """One condition; a selector's conditions must all hold.

    Args:
        key: the label's key.
        operator: `in`, `notin`, `exists`, `!`, `>` or `<`; equality is `in` with one value.
        values: what the label's value is compared with.
    """

    key: str
    operator: str
    values: frozenset[str] = frozenset()

    def matches(self, labels: Labels) -> bool:
        """Tell whether an object with these labels meets it; an absent label is in no set."""
        value = labels.get(self.key)
        match self.operator:
            case "in":
                return value in self.values
            case "notin":
                return value not in self.values
            case "exists":
                return value is not None
            case "!":
                return value is None
        return value is not None and self._compare(value)

    def _compare(self, text: str) -> bool:
        value, bound = _integer(text), _integer(next(iter(self.values)))
        if value is None or bound is None:
            return False
        return value > bound if self.operator == ">" else value < bound


Selector = tuple[Requirement, ...]


def matches(selector: Selector, labels: Labels | None) -> bool:
    """Tell whether an object's labels meet every requirement; no requirement is met by all."""
    found = labels or {}
    return all(requirement.matches(found) for requirement in selector)


def parse(text: str) -> Selector:
    """Return the requirements of a selector; none for an empty text.

    Raises:
        Problem: bad-request, as the API server says it for a selector that it cannot read.
    """
    try:
        return tuple(_Parser(text).requirements())
    except _SyntaxError as error:
        message = f"`labelSelector` must be a Kubernetes label selector: {error}"
        raise errors.Problem(
            errors.BAD_REQUEST, message, (errors.FieldError("query:labelSelector", message),)
        ) from None


def is_key(text: str) -> bool:
    """Tell whether `text` is a label's key: a name, or a DNS subdomain, a slash and a name."""
    prefix, slash, name = text.rpartition("/")
    if slash and not (len(prefix) <= 253 and _SUBDOMAIN.fullmatch(prefix)):
        return False
    return len(name) <= 63 and _NAME.fullmatch(name) is not None


def is_value(text: str) -> bool:
    """Tell whether `text` is a label's value."""
    return text == "" or (len(text) <= VALUE_MAX_LENGTH and _NAME.fullmatch(text) is not None)


class _SyntaxError(ValueError):
    """Says what was expected; the text itself is not repeated."""


class _Parser:
    def __init__(self, text: str) -> None:
        self._tokens = list(_tokens(text))
        self._position = 0

    def requirements(self) -> Iterator[Requirement]:
        if self._peek() == _END:
            return
        while True:
            yield self._requirement()
            if (item := self._take()) == _END:
                return
            if item != ",":
                raise _SyntaxError("a comma or the end must follow a requirement")

    def _requirement(self) -> Requirement:
        negated = self._peek() == "!"
        if negated:
            self._take()
        key = self._word("a label's key")
        if not is_key(key):
            raise _SyntaxError("a key must be a name, or a DNS subdomain, '/' and a name")
        if negated:
            return Requirement(key, "!")
        if self._peek() in {_END, ","}:
            return Requirement(key, "exists")
        return self._compared(key)

    def _compared(self, key: str) -> Requirement:
        operator = self._take()
        if operator in _WORD_OPERATORS:
            values = frozenset(self._set())
        elif operator in _SYMBOL_OPERATORS:
            values = frozenset({self._value()})
        else:
            raise _SyntaxError("the operator must be one of =, ==, !=, in, notin, >, <")
        if operator in {">", "<"} and any(_integer(value) is None for value in values):
            raise _SyntaxError(f"the value after {operator} must be an integer")
        if not all(is_value(value) for value in values):
            raise _SyntaxError("a value must be empty, or at most 63 letters, digits, '-', '_' and '.'")
        return Requirement(key, _MEANS.get(operator, operator), values)

    def _value(self) -> str:
        return "" if self._peek() in {_END, ","} else self._word("a value")

    def _set(self) -> Iterator[str]:
        """Yield the values in brackets; between two commas, and next to a bracket, stands the empty one."""
        self._expect("(")
        if self._peek() == ")":
            yield ""
        is_value_due = True
        while self._peek() != ")":
            if self._peek() == ",":
                if is_value_due:
                    yield ""
                self._take()
                is_value_due = True
                if self._peek() == ")":
                    yield ""
            elif is_value_due:
                yield self._word("a value")
                is_value_due = False
            else:
                raise _SyntaxError("a comma must stand between two values")
        self._expect(")")

    def _word(self, what: str) -> str:
        token = self._take()
        if token == _END or token in _SYMBOLS:
            raise _SyntaxError(f"{what} is missing")
        return token

    def _expect(self, token: str) -> None:
        if self._take() != token:
            raise _SyntaxError(f"'{token}' is missing")

    def _peek(self) -> str:
        return self._tokens[self._position]

    def _take(self) -> str:
        token = self._tokens[self._position]
        self._position = min(self._position + 1, len(self._tokens) - 1)
        return token


_MEANS: Mapping[str, str] = {"=": "in", "==": "in", "!=": "notin"}


def _tokens(text: str) -> Iterator[str]:
    position, end = 0, len(text.rstrip(" \t\r\n"))
    while position < end:
        found = _TOKEN.match(text, position)
        if found is None:
            raise _SyntaxError("it cannot be read")
        yield found.group(1)
        position = found.end()
    yield _END


def _integer(text: str) -> int | None:
    """Return a 64-bit integer as Go's ParseInt reads it."""
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdecimal() and len(digits) <= 64):
        return None
    value = int(text)
    return value if -_INT64 <= value < _INT64 else None
