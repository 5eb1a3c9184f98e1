"""The CRDs keep the API conventions: bounded, described, structural, small, and named without collisions."""

import re
from typing import Any

import kubernetes_validate
import pytest

from tests.unit.crds import kubectlwords, linter, schemas

KINDS = sorted(schemas.by_kind())
CONDITION_FIELDS = {"type", "status", "reason", "message", "lastTransitionTime"}


@pytest.fixture(params=KINDS)
def crd(request: pytest.FixtureRequest) -> schemas.Json:
    return schemas.by_kind()[request.param]


@pytest.fixture
def version(crd: schemas.Json) -> schemas.Json:
    (only,) = crd["spec"]["versions"]
    assert isinstance(only, dict)
    return only


def test_every_schema_node_keeps_every_convention(crd: schemas.Json) -> None:
    assert list(linter.findings(schemas.root(crd))) == []


TEXT = {"type": "string", "maxLength": 9, "description": "Some text, bounded."}


@pytest.mark.parametrize(
    ("name", "schema", "finding"),
    [
        ("a", {"type": "string", "maxLength": 9}, "description"),
        ("a", {**TEXT, "type": "number"}, "object, array, string or integer"),
        ("a", {**TEXT, "type": "boolean"}, "object, array, string or integer"),
        ("a", {**TEXT, "nullable": True}, "must not use"),
        ("a", {**TEXT, "oneOf": []}, "must not use"),
        ("a", {"type": "string", "description": "Some text, unbounded."}, "maxLength"),
        ("a", {**TEXT, "type": "integer", "format": "int32", "minimum": 0}, "minimum and maximum"),
        ("a", {**TEXT, "type": "integer", "format": "int64", "minimum": 0, "maximum": 2**53}, "2^53"),
        ("a", {**TEXT, "type": "integer", "format": "int32", "minimum": 0, "maximum": 2**31}, "2^53"),
        ("a", {**TEXT, "type": "array", "items": TEXT}, "maxItems"),
        (
            "a",
            {
                **TEXT,
                "type": "array",
                "maxItems": 1,
                "x-kubernetes-list-type": "atomic",
                "items": {**TEXT, "type": "object", "properties": {"b": TEXT}},
            },
            "list-map",
        ),
        ("a", {**TEXT, "type": "object"}, "maxProperties"),
        ("a", {**TEXT, "x-kubernetes-preserve-unknown-fields": True}, "preserve"),
        ("a", {**TEXT, "default": "x"}, "default"),
        ("a", {**TEXT, "enum": ["lower"]}, "CamelCase"),
        ("a", {**TEXT, "enum": ["Upper"]}, "unknown value"),
        ("Upper", TEXT, "camelCase"),
        ("someTime", TEXT, "date-time"),
        ("started", {**TEXT, "format": "date-time"}, "date-time"),
        ("retryTimeout", TEXT, "unit"),
        ("retrySeconds", TEXT, "integers"),
        (
            "fooRef",
            {**TEXT, "type": "object", "properties": {"name": TEXT, "namespace": TEXT}},
            "no namespace",
        ),
    ],
)
def test_the_linter_finds(name: str, schema: dict[str, Any], finding: str) -> None:
    found = list(linter.findings({**TEXT, "type": "object", "properties": {name: schema}}))
    assert any(finding in line for line in found), found


def test_the_linter_finds_a_phase() -> None:
    status = {**TEXT, "type": "object", "properties": {"phase": TEXT}}
    assert any(
        "conditions" in f for f in linter.findings({"properties": {"status": status}, "type": "object"})
    )


def test_only_parameters_schema_preserves_unknown_fields() -> None:
    word = "x-kubernetes-preserve-unknown-fields"
    found = [
        (kind, node.path)
        for kind, crd in schemas.by_kind().items()
        for node in schemas.walk(schemas.root(crd))
        if word in node.schema
    ]
    assert found == [("JobType", ".spec.parametersSchema")]


def test_the_root_has_only_the_five_usual_fields(crd: schemas.Json) -> None:
    assert set(schemas.root(crd)["properties"]) == {"apiVersion", "kind", "metadata", "spec", "status"}
    assert schemas.root(crd)["required"] == ["spec"]


def test_a_new_object_does_not_look_finished(crd: schemas.Json) -> None:
    status = schemas.root(crd)["properties"]["status"]
    assert status["default"] == {"observedGeneration": -1}
    assert status["properties"]["observedGeneration"]["minimum"] == -1


def test_status_is_a_subresource_and_the_file_has_no_status(crd: schemas.Json, version: schemas.Json) -> None:
    assert version["subresources"] == {"status": {}}
    assert set(crd) == {"apiVersion", "kind", "metadata", "spec"}


def test_conditions_have_the_shape_of_metav1_condition(crd: schemas.Json) -> None:
    status = schemas.root(crd)["properties"]["status"]["properties"]
    if crd["spec"]["names"]["kind"] == "QuotaLedger":
        assert "conditions" not in status
        return
    conditions = status["conditions"]
    assert conditions["x-kubernetes-list-type"] == "map"
    assert conditions["x-kubernetes-list-map-keys"] == ["type"]
    assert set(conditions["items"]["required"]) == CONDITION_FIELDS
    assert set(conditions["items"]["properties"]) == CONDITION_FIELDS | {"observedGeneration"}
    assert conditions["items"]["properties"]["status"]["enum"] == ["True", "False", "Unknown"]


def test_one_served_and_stored_version(crd: schemas.Json, version: schemas.Json) -> None:
    assert (version["name"], version["served"], version["storage"]) == ("v1alpha1", True, True)
    assert crd["spec"]["conversion"] == {"strategy": "None"}
    assert crd["spec"]["group"] == "manifestry.dev"


@pytest.mark.parametrize("name", schemas.NAMES)
def test_the_file_is_small_enough_for_any_way_of_applying(name: str) -> None:
    assert (schemas.CRDS_DIR / f"{name}.yaml").stat().st_size < 64 * 1024


def test_the_server_schema_of_crds_accepts_the_file(crd: schemas.Json) -> None:
    kubernetes_validate.validate(crd, "1.37", strict=True)


def test_names_are_the_documented_ones() -> None:
    short = {kind: crd["spec"]["names"]["shortNames"] for kind, crd in schemas.by_kind().items()}
    assert short == {
        "Artifact": ["mart"],
        "Job": ["mjob", "mjobs"],
        "JobType": ["mjt"],
        "QuotaLedger": ["ql"],
        "TenantQuota": ["tq"],
    }
    scope = {kind for kind, crd in schemas.by_kind().items() if crd["spec"]["scope"] == "Cluster"}
    assert scope == {"JobType", "TenantQuota"}


def test_names_are_well_formed(crd: schemas.Json) -> None:
    names = crd["spec"]["names"]
    assert crd["metadata"] == {"name": f"{names['plural']}.manifestry.dev"}
    assert names["listKind"] == f"{names['kind']}List"
    assert names["singular"] == names["kind"].lower()
    assert names["categories"] == ["manifestry"]  # never `all`: nothing here may go with `delete all --all`


def test_no_name_is_taken_by_kubernetes_but_job() -> None:
    ours = [
        word
        for crd in schemas.by_kind().values()
        for names in [crd["spec"]["names"]]
        for word in (names["plural"], names["singular"], *names["shortNames"])
    ]
    assert len(ours) == len(set(ours))
    assert set(ours) & kubectlwords.WORDS == {"job", "jobs"}  # known, and why the docs say mjob


@pytest.mark.parametrize(
    ("kind", "max_length"), [("Artifact", 52), ("Job", 52), ("JobType", 63), ("QuotaLedger", 63)]
)
def test_object_names_are_bounded_dns_labels(kind: str, max_length: int) -> None:
    metadata = schemas.root(schemas.by_kind()[kind])["properties"]["metadata"]["properties"]
    schema = schemas.strict({"type": "object", "properties": metadata})
    good: list[schemas.Json] = [
        {"name": "a"},
        {"name": "a" * max_length},
        {"name": "0-a"},
        {"generateName": "a" * (max_length - 6) + "-"},
    ]
    bad: list[schemas.Json] = [
        {"name": "a" * (max_length + 1)},
        *({"name": n} for n in ("", "a.b", "A", "-a", "a-", "a\n")),
        {"generateName": "a" * (max_length - 4)},
        {"generateName": "a."},
    ]
    assert [value for value in good if schemas.problems(schema, value)] == []
    assert [value for value in bad if not schemas.problems(schema, value)] == []


def _at(schema: schemas.Json, json_path: str) -> schemas.Json:
    for name in re.sub(r"\[\?\(@\.type==\"\w+\"\)\]", "[]", json_path).strip(".").split("."):
        schema = schema["properties"][name.removesuffix("[]")]
        schema = schema["items"] if name.endswith("[]") else schema
    return schema


def test_selectable_fields_are_simple_paths_to_scalars(crd: schemas.Json, version: schemas.Json) -> None:
    paths = [field["jsonPath"] for field in version.get("selectableFields", [])]
    assert len(paths) <= 8
    assert [p for p in paths if not re.fullmatch(r"(\.[a-zA-Z]+)+", p) or p.startswith(".metadata")] == []
    assert all(_at(schemas.root(crd), path)["type"] in {"string", "integer"} for path in paths)


def test_printer_columns_point_at_fields_of_their_type(crd: schemas.Json, version: schemas.Json) -> None:
    for column in version["additionalPrinterColumns"]:
        if column["jsonPath"] == ".metadata.creationTimestamp":
            continue
        node = _at(schemas.root(crd), column["jsonPath"])
        kind = "date" if node.get("format") == "date-time" else node["type"]
        kind = "string" if kind == "array" else kind  # kubectl prints it as JSON
        assert column["type"] == kind, column["name"]
        assert column["description"].endswith(".")


@pytest.mark.parametrize(
    ("kind", "columns", "wide"),
    [
        (
            "Artifact",
            ["Media Type", "Size", "Ready", "Status", "Age"],
            ["Digest", "Manifest", "Tenant", "Message"],
        ),
        (
            "Job",
            ["Type", "Succeeded", "Status", "Started", "Age"],
            ["Exit Code", "Tenant", "Completed", "Message"],
        ),
        ("JobType", ["Image", "Ready", "Status", "Age"], ["Queue", "Message"]),
        (
            "TenantQuota",
            ["Tenants", "Ready", "Status", "Age"],
            ["Over Limit", "Used Bytes", "Artifacts", "Message"],
        ),
        ("QuotaLedger", ["Initialized", "Repaired", "Age"], []),
    ],
)
def test_printer_columns(kind: str, columns: list[str], wide: list[str]) -> None:
    all_columns = schemas.by_kind()[kind]["spec"]["versions"][0]["additionalPrinterColumns"]
    assert [c["name"] for c in all_columns if c.get("priority", 0) == 0] == columns
    assert [c["name"] for c in all_columns if c.get("priority", 0) == 1] == wide
