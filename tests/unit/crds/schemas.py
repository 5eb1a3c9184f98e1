"""Reads the CRD files: every schema node, every CEL rule, and what a server would say to an object.

`verdict` evaluates the rules as kube-apiserver does: a rule that names `oldSelf` runs only where an old value
can be matched (properties, map keys, items of a list-map). So immutability that a client could evade by
unsetting a field shows up in a table.
"""

import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cel
import jsonschema
import yaml

CRDS_DIR = Path(__file__).parents[3] / "crds"
NAMES = ("artifacts", "jobs", "jobtypes", "quotaledgers", "tenantquotas")

Json = dict[str, Any]


@dataclass(frozen=True)
class Node:
    """One schema node and the dotted path that leads to it; `[]` is an item, `{}` a map's value."""

    path: str
    schema: Json

    @property
    def name(self) -> str:
        return self.path.rsplit(".", 1)[-1].removesuffix("[]").removesuffix("{}")


@functools.cache
def load(name: str) -> Json:
    """Return the CRD in `crds/<name>.yaml`; shared, do not change it."""
    body: Json = yaml.safe_load((CRDS_DIR / f"{name}.yaml").read_text())
    return body


def by_kind() -> dict[str, Json]:
    """Return the five CRDs by kind."""
    return {crd["spec"]["names"]["kind"]: crd for crd in map(load, NAMES)}


def root(crd: Json) -> Json:
    """Return the schema of the one version."""
    (version,) = crd["spec"]["versions"]
    schema: Json = version["schema"]["openAPIV3Schema"]
    return schema


def walk(schema: Json, path: str = "") -> Iterator[Node]:
    """Yield `schema` and everything below it."""
    yield Node(path, schema)
    for name, child in schema.get("properties", {}).items():
        yield from walk(child, f"{path}.{name}")
    if "items" in schema:
        yield from walk(schema["items"], f"{path}[]")
    if isinstance(schema.get("additionalProperties"), dict):
        yield from walk(schema["additionalProperties"], f"{path}{{}}")


def rules(crd: Json) -> list[tuple[str, Json]]:
    """Return every CEL rule with the path of the node that it stands on."""
    return [(n.path, rule) for n in walk(root(crd)) for rule in n.schema.get("x-kubernetes-validations", ())]


def verdict(
    schema: Json, new: Any, old: Any = None, seen: set[tuple[str, bool]] | None = None, path: str = ""
) -> list[str]:
    """Return the messages of the CEL rules that refuse `new` as a successor of `old` (None: created).

    Args:
        schema: the node to begin at.
        new: the value there.
        old: the value that stood there, None where there was none or it cannot be matched.
        seen: collects `(path and rule, outcome)`, so that a test can ask for both outcomes of every rule.
        path: the dotted path of the node.
    """
    messages = []
    for rule in schema.get("x-kubernetes-validations", ()):
        if "oldSelf" in rule["rule"] and old is None:
            continue
        holds = cel.evaluate(rule["rule"], {"self": new, "oldSelf": old})
        if seen is not None:
            seen.add((f"{path}: {rule['rule']}", bool(holds)))
        if holds is not True:
            messages.append(str(rule["message"]))
    for child_path, child, value, previous in _children(schema, new, old, path):
        messages += verdict(child, value, previous, seen, child_path)
    return messages


def _children(schema: Json, new: Any, old: Any, path: str) -> Iterator[tuple[str, Json, Any, Any]]:
    if isinstance(new, Mapping):
        before = old if isinstance(old, Mapping) else {}
        properties, extra = schema.get("properties", {}), schema.get("additionalProperties")
        for name, value in new.items():
            if name in properties:
                yield f"{path}.{name}", properties[name], value, before.get(name)
            elif isinstance(extra, dict):
                yield f"{path}{{}}", extra, value, before.get(name)
    elif isinstance(new, list):
        keys = schema.get("x-kubernetes-list-map-keys", [])
        previous = {tuple(item[k] for k in keys): item for item in old or ()} if keys else {}
        for item in new:
            match = previous.get(tuple(item[k] for k in keys)) if keys else None
            yield f"{path}[]", schema["items"], item, match


def strict(schema: Json) -> Json:
    """Translate a structural schema to JSON Schema that also refuses what the server would prune."""
    out: Json = {
        k: v
        for k, v in schema.items()
        if not k.startswith("x-kubernetes-") and k not in {"default", "format"}
    }
    if "pattern" in out:  # Python's `$` also matches before a final newline, RE2's does not
        out["pattern"] = re.sub(r"\$$", r"\\Z", out["pattern"])
    if "properties" in schema:
        out["properties"] = {name: strict(child) for name, child in schema["properties"].items()}
    if "items" in schema:
        out["items"] = strict(schema["items"])
    if isinstance(schema.get("additionalProperties"), dict):
        out["additionalProperties"] = strict(schema["additionalProperties"])
    elif schema["type"] == "object" and not schema.get("x-kubernetes-preserve-unknown-fields"):
        out["additionalProperties"] = False
    return out


def with_object_meta(schema: Json) -> Json:
    """Return the JSON Schema of a whole object: the CRD's own metadata rules and the usual other fields."""
    out = strict(schema)
    metadata = {**out["properties"]["metadata"].get("properties", {})}
    metadata.setdefault("name", {"type": "string"})
    for name in ("namespace", "labels", "annotations"):
        metadata[name] = {"type": "string" if name == "namespace" else "object"}
    out["properties"]["metadata"] = {"type": "object", "properties": metadata, "additionalProperties": False}
    return out


def problems(schema: Json, value: Any) -> list[str]:
    """Return what the strict JSON Schema says against `value`; empty means valid."""
    return [error.message for error in jsonschema.Draft202012Validator(schema).iter_errors(value)]
