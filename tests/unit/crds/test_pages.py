"""The contract pages are true: their examples are valid, and every field, reason and limit stands in them."""

import re
from collections.abc import Iterator

import pytest
import yaml

from tests.unit.crds import schemas

KINDS = schemas.by_kind()
PAGES = {kind: (schemas.CRDS_DIR / f"{kind.lower()}.md").read_text() for kind in KINDS}

REASONS = {
    "Artifact": (
        "AwaitingUpload Uploading Stored DigestMismatch SizeMismatch UploadExpired WaitingForQuota "
        "ExceedsMaxQuota StoreUnavailable SourceNotFound SourceNotSupported SourceUnavailable Fetching "
        "TooLarge InvalidSource TenantNotFound"
    ),
    "Job": (
        "Queued Admitted Running Suspended Succeeded Failed DeadlineExceeded Cancelled QuotaExceeded "
        "JobTypeNotFound InvalidParameters NotSupported TenantNotFound"
    ),
    "TenantQuota": "TenantConflict",
}


def examples() -> Iterator[tuple[str, schemas.Json]]:
    for kind, page in PAGES.items():
        for block in re.findall(r"^```yaml\n(.*?)^```", page, re.DOTALL | re.MULTILINE):
            yield kind, yaml.safe_load(block)


EXAMPLES = list(examples())


def test_every_page_has_an_example_of_its_kind() -> None:
    assert {kind for kind, _ in EXAMPLES} == set(KINDS)
    assert all(body["kind"] == kind for kind, body in EXAMPLES)


@pytest.mark.parametrize(("kind", "body"), EXAMPLES)
def test_an_example_is_a_valid_object(kind: str, body: schemas.Json) -> None:
    root = schemas.root(KINDS[kind])
    assert body["apiVersion"] == "manifestry.dev/v1alpha1"
    assert schemas.problems(schemas.with_object_meta(root), body) == []
    assert schemas.verdict(root, body) == []
    assert len({"name", "generateName"} & set(body["metadata"])) == 1
    assert ("namespace" in body["metadata"]) == (KINDS[kind]["spec"]["scope"] == "Namespaced")


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("Artifact", {"nope": 1}),
        ("Artifact", {"mediaType": "text"}),
        ("Artifact", {"annotations": {f"k{i}": "" for i in range(33)}}),
        ("Artifact", {"digest": "sha256:" + "A" * 64}),
        ("Artifact", {"fileName": "a/b"}),
        ("Artifact", {"fileName": "a\n"}),
        ("Artifact", {"files": []}),
        ("Artifact", {"files": [{"name": "..", "mediaType": "a/b", "upload": {}}]}),
        ("Artifact", {"url": {"url": "https://example.org/#a"}}),
        ("Artifact", {"secretRef": {"name": "a", "key": "../b"}}),
        ("Artifact", {"deletionPolicy": "delete"}),
        ("Job", {"privileged": "yes"}),
        ("Job", {"overrides": {"serviceAccountName": "admin"}}),
        ("Job", {"overrides": {"env": [{"name": "1A"}]}}),
        ("Job", {"overrides": {"resources": {"limits": {"cpu": "-1"}}}}),
        ("Job", {"overrides": {"resources": {"limits": {"cpu": 1}}}}),
        ("Job", {"parameters": [{"name": "a", "value": 1}]}),
        ("Job", {"priority": 1001}),
        *(
            ("Job", {"outputs": [{"name": "a", "path": p}]})
            for p in ("a", "/", "/a/../b", "/..", "/a/.", "/a//b", "/a\n")
        ),
        ("JobType", {"runAsUser": 0}),
        ("JobType", {"image": "a b"}),
        ("JobType", {"hostNetwork": "yes"}),
        ("TenantQuota", {"tenants": []}),
        ("TenantQuota", {"tenants": ["a*"]}),
        ("QuotaLedger", {"holders": {}}),
    ],
)
def test_the_validation_of_examples_refuses_what_the_server_refuses(kind: str, change: schemas.Json) -> None:
    body = next(body for of, body in EXAMPLES if of == kind)
    bad = {**body, "spec": {**body["spec"], **change}}
    assert schemas.problems(schemas.with_object_meta(schemas.root(KINDS[kind])), bad)


@pytest.mark.parametrize("path", ["/a", "/a/b.c", "/..a/...b", "/a-b_c@d+e=f"])
def test_a_path_may_have_dots_in_a_segment(path: str) -> None:
    spec = {"jobType": "a", "outputs": [{"name": "a", "path": path}]}
    schema = schemas.strict(schemas.root(KINDS["Job"])["properties"]["spec"])
    assert schemas.problems(schema, spec) == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_names_every_field_of_spec_and_status(kind: str) -> None:
    properties = schemas.root(KINDS[kind])["properties"]
    fields = [*properties["spec"]["properties"], *properties["status"]["properties"]]
    assert [f for f in fields if not re.search(rf"`(\w+\.)*{f}(\[\])?(\.\w+)*`", PAGES[kind])] == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_names_short_names_and_every_enum_value(kind: str) -> None:
    page = PAGES[kind]
    assert all(f"`{name}`" in page for name in KINDS[kind]["spec"]["names"]["shortNames"])
    values = {
        value
        for node in schemas.walk(schemas.root(KINDS[kind]))
        if node.path.startswith(".spec") and ".tolerations" not in node.path
        for value in node.schema.get("enum", ())
    }
    assert [v for v in sorted(values) if f"`{v}`" not in page] == []


@pytest.mark.parametrize(("kind", "reason"), [(k, r) for k, text in REASONS.items() for r in text.split()])
def test_a_page_explains_every_reason(kind: str, reason: str) -> None:
    assert re.search(rf"[`/]{reason}`", PAGES[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_shows_states_and_how_to_wait(kind: str) -> None:
    page = PAGES[kind]
    assert "| kstatus |" in page
    assert set(re.findall(r"\| (InProgress|Current|Failed|Terminating) \|", page)) >= {
        "InProgress",
        "Current",
    }
    assert "wait --for=" in page
    assert "## Immutability" in page


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_never_uses_the_bare_word_that_kubectl_gives_to_batch(kind: str) -> None:
    commands = [line for line in PAGES[kind].splitlines() if line.startswith("kubectl ")]
    assert commands
    assert [
        c for c in commands if re.search(r"\b(get|delete|patch|wait|describe|explain) jobs?\b(?!\.)", c)
    ] == []
