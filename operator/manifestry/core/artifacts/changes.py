"""Changes of an Artifact's metadata: which members may change, and what a change does to the custom resource.

A client may send back what it has read: a member that says what is so already is accepted, whether it may be
changed or not. What differs and may not is refused, by its pointer; nothing is left out silently.
References: RFC 7396 (merge patch); RFC 9110 section 9.3.4 (PUT); CRD Artifact; docs/rest.md.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from manifestry.core import errors
from manifestry.core.artifacts import requests
from manifestry.core.kube import names

SPEC_FIELDS: Final = (
    "project",
    "artifactType",
    "annotations",
    "fileName",
    "deletionPolicy",
    "subjectRef",
    "derivedFromRefs",
)
MUTABLE: Final = (*SPEC_FIELDS, "labels")
CREATED: Final = ("name", "mediaType", "digest", "sizeBytes", *requests.SOURCES)
OBSERVED: Final = (
    "id",
    "tenant",
    "status",
    "createdAt",
    "createdBy",
    "resourceVersion",
    "source",
    "manifest",
    "expected",
    "storedAt",
    "verifiedAt",
    "conditions",
    "links",
)
_UPLOADED = ("digest", "sizeBytes")  # of an upload: recorded by the facade
_OWN_LABELS = f"{names.GROUP}/"
_MISSING = object()

Object = Mapping[str, Any]


def patched(body: Object, shown: Object, patch: Any) -> dict[str, Any]:
    """Return the mutable members as a merge patch wants them.

    Args:
        body: the Artifact.
        shown: how REST shows it.
        patch: the parsed JSON of the request.

    Raises:
        Problem: validation-failed (unknown member, no object), immutable-field, precondition-failed.
    """
    wanted = _members(patch)
    fixed = {key: value for key, value in wanted.items() if key not in MUTABLE}
    _check_fixed(body, shown, fixed, is_patch=True)
    return _without_none(merge(mutable(body), {key: wanted[key] for key in wanted if key in MUTABLE}))


def replaced(body: Object, shown: Object, document: Any) -> dict[str, Any]:
    """Return the mutable members as a PUT wants them: those that are left out go.

    Labels are left as they are when `labels` is: they belong to the cluster's other tools as well.

    Args:
        body: the Artifact.
        shown: how REST shows it.
        document: the parsed JSON of the request.

    Raises:
        Problem: validation-failed (unknown member, no object), immutable-field, precondition-failed.
    """
    wanted = _members(document)
    fixed = {key: value for key, value in wanted.items() if key not in MUTABLE and value is not None}
    _check_fixed(body, shown, fixed, is_patch=False)
    kept = {"labels": labels(body)} if wanted.get("labels") is None and labels(body) else {}
    return kept | _without_none({key: wanted[key] for key in wanted if key in MUTABLE})


def merge(target: Any, patch: Any) -> Any:
    """Apply a merge patch.

    References: RFC 7396 section 2.
    """
    if not isinstance(patch, Mapping):
        return patch
    merged = dict(target) if isinstance(target, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge(merged.get(key), value)
    return merged


def mutable(body: Object) -> dict[str, Any]:
    """Return the members that a change may touch, as they are."""
    spec = body.get("spec") or {}
    found = {field: spec[field] for field in SPEC_FIELDS if spec.get(field) is not None}
    return found | ({"labels": labels(body)} if labels(body) else {})


def labels(body: Object) -> dict[str, str]:
    """Return an object's labels as REST shows them: the project has a member of its own."""
    found = (body.get("metadata") or {}).get("labels") or {}
    return {key: value for key, value in found.items() if key != names.PROJECT_LABEL}


def altered(body: Object, wanted: Object) -> dict[str, Any]:
    """Return those of the wanted members that are not so already: only they need to be checked."""
    current = mutable(body)
    return {key: value for key, value in wanted.items() if not _same(value, current.get(key))}


def check_labels(current: Object, wanted: Object) -> None:
    """Refuse to change a label that is ours to set; people may set the one that protects.

    Raises:
        Problem: validation-failed, naming the label.
    """
    for key in sorted({*current, *wanted}):
        own = key.startswith(_OWN_LABELS) and key != names.PROTECTED_LABEL
        if own and current.get(key) != wanted.get(key):
            raise errors.invalid(_pointer("labels", key), f"`{key}` must not be set: the prefix is reserved")


def resource_patch(body: Object, wanted: Object) -> dict[str, Any]:
    """Return the merge patch that makes an Artifact as wanted, if it is still as it was read.

    Args:
        body: the Artifact.
        wanted: all mutable members, checked against their schema.

    Returns:
        The patch with the resourceVersion as its precondition; empty when nothing changes.
    """
    current = mutable(body)
    spec = _difference(
        {field: current.get(field) or None for field in SPEC_FIELDS},
        {field: wanted.get(field) or None for field in SPEC_FIELDS},
    )
    changed = _difference(current.get("labels") or {}, wanted.get("labels") or {})
    if "project" in spec:
        changed[names.PROJECT_LABEL] = spec["project"]
    if not spec and not changed:
        return {}
    metadata = {"resourceVersion": body["metadata"]["resourceVersion"]}
    return {"metadata": metadata | ({"labels": changed} if changed else {})} | (
        {"spec": spec} if spec else {}
    )


def _difference(old: Object, new: Object) -> dict[str, Any]:
    """Return the merge patch from `old` to `new`, which goes into maps."""
    found: dict[str, Any] = {}
    for key in {*old, *new}:
        before, after = old.get(key), new.get(key)
        if _same(before, after):
            continue
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            found[key] = _difference(before, after)
        else:
            found[key] = after
    return found


def _members(document: Any) -> Object:
    if not isinstance(document, Mapping):
        raise errors.invalid("", "`body` must be an object")
    unknown = [key for key in document if key not in {*MUTABLE, *CREATED, *OBSERVED}]
    if unknown:
        found = [
            errors.FieldError(_pointer(key), f"`{key}` must not be set: there is no such field")
            for key in unknown
        ]
        raise errors.Problem(errors.VALIDATION_FAILED, found[0].message, tuple(found[:20]))
    return document


def _check_fixed(body: Object, shown: Object, wanted: Object, *, is_patch: bool) -> None:
    version = wanted.get("resourceVersion")
    if version is not None and not _same(version, shown.get("resourceVersion")):
        detail = "`resourceVersion` must be the artifact's: it has changed since it was read"
        raise errors.Problem(errors.PRECONDITION_FAILED, detail)
    found = [
        errors.FieldError(pointer, f"`{pointer[1:]}` must stay as it is: it is immutable")
        for key, value in wanted.items()
        for pointer in _changed(key, value, tuple(_states(body, shown, key)), is_patch=is_patch)
    ]
    if found:
        raise errors.Problem(errors.IMMUTABLE_FIELD, found[0].message, tuple(found[:20]))


def _states(body: Object, shown: Object, key: str) -> Iterator[Any]:
    """Yield what a client may know a member as: what it was created with, and what it is read as."""
    spec = body.get("spec") or {}
    if key in shown:
        yield shown[key]
    if key == "name":
        yield body["metadata"]["name"]
    elif key in CREATED and key in spec:
        yield spec[key]
        yield _as_created(key, spec[key])


def _as_created(key: str, source: Any) -> Any:
    """Return a source as it was before an upload was recorded in it."""
    if key == "upload":
        return {name: value for name, value in source.items() if name not in _UPLOADED}
    if key == "files":
        return [
            {name: _as_created(name, value) if name == "upload" else value for name, value in each.items()}
            for each in source
        ]
    return source


def _changed(key: str, value: Any, states: tuple[Any, ...], *, is_patch: bool) -> Iterator[str]:
    """Yield the pointer of what differs, when the value fits none of the states."""
    if value is None and not states:
        return
    results = [merge(state, value) if is_patch else value for state in states]
    if any(_same(result, state) for result, state in zip(results, states, strict=True)):
        return
    state = states[0] if states else _MISSING
    result = results[0] if states else value
    yield _pointer(*_first_difference(result, state, (key,)))


def _first_difference(value: Any, state: Any, path: tuple[str, ...]) -> tuple[str, ...]:
    if isinstance(value, Mapping) and isinstance(state, Mapping):
        for key in sorted({*value, *state}):
            if not _same(value.get(key, _MISSING), state.get(key, _MISSING)):
                return _first_difference(value.get(key, _MISSING), state.get(key, _MISSING), (*path, key))
    return path


def _without_none(members: Object) -> dict[str, Any]:
    return {key: value for key, value in members.items() if value is not None}


def _same(one: Any, other: Any) -> bool:
    """Compare as JSON does: true is not 1."""
    if one is _MISSING or other is _MISSING:
        return one is other
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def _pointer(*parts: str) -> str:
    return "".join(f"/{part.replace('~', '~0').replace('/', '~1')}" for part in parts)
