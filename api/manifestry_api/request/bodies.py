"""JSON bodies: bounded while they arrive, strict in their syntax, every bad field named by its pointer.

Routes call this instead of declaring a FastAPI body, so that the wrong media type is 415, a body over the
limit is 413 before it is parsed, and messages follow our own wording.
"""

import asyncio
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from manifestry.core import errors
from manifestry_api.request import fields

MEDIA_TYPE = "application/json"
MERGE_PATCH = "application/merge-patch+json"
ERRORS_MAX_COUNT = 20
ERRORS_READ_MAX_COUNT = 1000  # each takes 5 us, in which nobody else is served, and a body may have 100,000
BODY_SECONDS = 60.0  # for all of it: without this a byte now and then would do
DEPTH_MAX = 64  # no schema of ours comes near; what walks a body recursively stays far from Python's limit
_CHARSETS = frozenset({"", "utf-8", "utf8"})
Model = TypeVar("Model", bound=BaseModel)

_MESSAGES: Mapping[str, str] = {
    "missing": "must be set",
    "extra_forbidden": "must not be set: there is no such field",
    "string_type": "must be a string",
    "int_type": "must be an integer",
    "bool_type": "must be true or false",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "list_type": "must be an array",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "string_too_long": "must have at most {max_length} characters",
    "string_too_short": "must have at least {min_length} characters",
    "too_long": "must have at most {max_length} items",
    "too_short": "must have at least {min_length} items",
    "string_pattern_mismatch": "must match '{pattern}'",
    "literal_error": "must be one of {expected}",
    "must": "{text}",
}


async def read(request: Request, model: type[Model], limit_bytes: int) -> Model:
    """Return the body as `model`.

    Raises:
        Problem: unsupported-media-type, payload-too-large, bad-request (no JSON) or validation-failed.
    """
    check_media_type(request)
    return validate(await parse(request, limit_bytes), model)


async def parse(request: Request, limit_bytes: int) -> Any:
    """Return the body as JSON has it.

    Raises:
        Problem: payload-too-large, bad-request (no JSON, or nested too deep).
    """
    return loads(await _collect(request, limit_bytes))


def validate(content: Any, model: type[Model]) -> Model:
    """Return parsed JSON as `model`.

    Raises:
        Problem: validation-failed, naming every bad field.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise _misfit(error) from None


def openapi(model: type[BaseModel], media_type: str = MEDIA_TYPE) -> dict[str, Any]:
    """Return the `openapi_extra` of a route that reads `model`."""
    content = {media_type: {"schema": fields.inline_schema(model)}}
    return {"requestBody": {"required": True, "content": content}}


def check_media_type(request: Request, wanted: str = MEDIA_TYPE) -> None:
    """Refuse a body that does not say it is JSON of the wanted kind.

    Raises:
        Problem: unsupported-media-type.
    """
    media_type, _, parameters = request.headers.get("content-type", "").partition(";")
    charset = parameters.strip().lower().removeprefix("charset=").strip('"')
    encoding = request.headers.get("content-encoding", "identity").lower()
    if media_type.strip().lower() != wanted or charset not in _CHARSETS or encoding != "identity":
        raise errors.Problem(
            errors.UNSUPPORTED_MEDIA_TYPE,
            f"header `Content-Type` must be '{wanted}' in UTF-8, without `Content-Encoding`",
            headers={"Accept-Patch" if wanted == MERGE_PATCH else "Accept": wanted},
        )


def declared_length(request: Request) -> int | None:
    """Return `Content-Length`, or None when the body is chunked."""
    text = request.headers.get("content-length", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None


def too_large(limit_bytes: int) -> errors.Problem:
    """Return the problem for a body over the limit."""
    return errors.Problem(errors.PAYLOAD_TOO_LARGE, f"the body must have at most {limit_bytes} bytes")


def invalid(found: list[errors.FieldError]) -> errors.Problem:
    """Return the problem that names every bad field, the first one in its detail."""
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return errors.Problem(
        errors.VALIDATION_FAILED, f"{found[0].message}{more}", tuple(found[:ERRORS_MAX_COUNT])
    )


def field_errors(details: Iterable[Mapping[str, Any]]) -> list[errors.FieldError]:
    """Return pydantic's errors as pointers and sentences with "must"."""
    return [_field_error(detail) for detail in details]


def pointer(parts: Iterable[Any]) -> str:
    """Return the RFC 6901 pointer for a path of names and indexes."""
    return "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in parts)


def _misfit(error: ValidationError) -> errors.Problem:
    count = error.error_count()
    if count > ERRORS_READ_MAX_COUNT:
        return errors.Problem(
            errors.VALIDATION_FAILED, f"the body must fit its schema: {count} fields do not"
        )
    return invalid(field_errors(error.errors(include_url=False, include_input=False)))


def _field_error(detail: Mapping[str, Any]) -> errors.FieldError:
    location = [part for part in detail["loc"] if part != "[key]"]
    template = _MESSAGES.get(str(detail["type"]), "must be valid: {message}")
    message = template.format(**{"message": detail["msg"], **(detail.get("ctx") or {})})
    name = location[-1] if location else "body"
    return errors.FieldError(pointer(location), f"`{name}` {message}")


async def _collect(request: Request, limit_bytes: int) -> bytes:
    if (declared_length(request) or 0) > limit_bytes:
        raise too_large(limit_bytes)
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit_bytes:
                    raise too_large(limit_bytes)
    except TimeoutError:
        detail = f"the body must be sent within {BODY_SECONDS:.0f} seconds"
        raise errors.Problem(errors.BAD_REQUEST, detail) from None
    return bytes(body)


def loads(body: bytes | bytearray) -> Any:
    """Return strict JSON: no name twice, no half of a surrogate pair, nothing beyond a double, not too deep.

    Raises:
        Problem: bad-request.

    References: RFC 7493 (I-JSON).
    """
    try:
        content = json.loads(
            body.decode(), object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_float=_finite
        )
    except (ValueError, RecursionError) as error:
        reason = str(error) if isinstance(error, json.JSONDecodeError | _SyntaxError) else "it cannot be read"
        raise errors.Problem(errors.BAD_REQUEST, f"the body must be JSON (RFC 8259): {reason}") from None
    if _is_deep(content):
        raise errors.Problem(errors.BAD_REQUEST, f"the body must not be nested deeper than {DEPTH_MAX}")
    if b"\\ud" in body.lower():
        _check_unicode(content)
    return content


def _check_unicode(content: Any) -> None:
    try:
        json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        detail = "the body must be Unicode text: half of a surrogate pair is none"
        raise errors.Problem(errors.BAD_REQUEST, detail) from None


def _is_deep(content: Any) -> bool:
    level = [content]
    for _ in range(DEPTH_MAX):
        level = [each for each in level if isinstance(each, dict | list)]
        if not level:
            return False
        level = [child for each in level for child in (each.values() if isinstance(each, dict) else each)]
    return any(isinstance(each, dict | list) for each in level)


class _SyntaxError(ValueError):
    pass


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _SyntaxError("a member must not occur twice in an object")
    return found


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _SyntaxError("a number must be within the range of a double")
    return value


def _refuse_constant(constant: str) -> NoReturn:
    raise _SyntaxError(f"{constant} is not a JSON value")
