"""The CEL rules hold for every way of setting, unsetting and changing a field.

The tables are whole specs, judged by `schemas.verdict`, which skips `oldSelf` rules where a server would.
"""

from typing import Any

import pytest

from tests.unit.crds import schemas

Json = schemas.Json

KINDS = schemas.by_kind()
ALL_RULES = [(kind, path, rule) for kind, crd in KINDS.items() for path, rule in schemas.rules(crd)]
SEEN: set[tuple[str, bool]] = set()

D1, D2 = "sha256:" + "a" * 64, "sha256:" + "b" * 64
TEXT: Json = {"inline": {"text": "hello"}}


def artifact(**fields: Any) -> Json:
    return {"mediaType": "text/plain", **fields}


def file(name: str, **fields: Any) -> Json:
    return {"name": name, "mediaType": "text/plain", **fields}


def job(**fields: Any) -> Json:
    return {"jobType": "render", **fields}


def judge(kind: str, new: Json, old: Json | None = None) -> list[str]:
    def whole(spec: Json | None) -> Json | None:
        return None if spec is None else {"metadata": {"name": "render"}, "spec": spec}

    found: set[tuple[str, bool]] = set()
    messages = schemas.verdict(schemas.root(KINDS[kind]), whole(new), whole(old), found)
    SEEN.update(((kind + where).replace(".files[].", "."), outcome) for where, outcome in found)
    return messages


def _place(kind: str, path: str, rule: Json) -> str:
    # What holds for a source holds for the same source of a file, see the last but one test.
    return f"{kind}{path}: {rule['rule']}".replace(".files[].", ".")


SOURCES: dict[str, Json] = {
    "inline": {"text": ""},
    "upload": {},
    "object": {"digest": D1},
    "url": {"url": "https://example.org/a"},
    "configMapRef": {"name": "c", "key": "k"},
    "secretRef": {"name": "c", "key": "k"},
}
ALL_SOURCES: dict[str, Any] = {**SOURCES, "files": [file("a", **TEXT)]}


@pytest.mark.parametrize("source", ALL_SOURCES)
def test_one_source_is_accepted(source: str) -> None:
    assert judge("Artifact", artifact(**{source: ALL_SOURCES[source]})) == []


def test_no_source_is_refused() -> None:
    (message,) = judge("Artifact", artifact())
    assert message.startswith("exactly one of `inline`, `upload`,")
    assert message.endswith("`files` must be set")


@pytest.mark.parametrize(("a", "b"), [(a, b) for a in ALL_SOURCES for b in ALL_SOURCES if a < b])
def test_two_sources_are_refused_and_one_cannot_become_the_other(a: str, b: str) -> None:
    both = judge("Artifact", artifact(**{a: ALL_SOURCES[a], b: ALL_SOURCES[b]}))
    assert any(m.startswith("exactly one of") for m in both)
    moved = judge("Artifact", artifact(**{b: ALL_SOURCES[b]}), artifact(**{a: ALL_SOURCES[a]}))
    assert moved == ["the choice of source is immutable; create a new Artifact instead"]


@pytest.mark.parametrize("source", SOURCES)
def test_a_file_has_exactly_one_source_too(source: str) -> None:
    other = next(name for name in SOURCES if name != source)
    assert judge("Artifact", artifact(files=[file("a", **{source: SOURCES[source]})])) == []
    both = {source: SOURCES[source], other: SOURCES[other]}
    for bad in (file("a"), file("a", **both)):
        (message,) = judge("Artifact", artifact(files=[bad]))
        assert message.startswith("exactly one of `inline`")
        assert "`files`" not in message
    old = artifact(files=[file("a", **{source: SOURCES[source]})])
    moved = judge("Artifact", artifact(files=[file("a", **{other: SOURCES[other]})]), old)
    assert moved == ["the choice of source is immutable; create a new Artifact instead"]


CHANGED: dict[str, Json] = {
    "inline": {"text": "other"},
    "object": {"digest": D2},
    "url": {"url": "https://example.org/b"},
    "configMapRef": {"name": "c", "key": "l"},
    "secretRef": {"name": "d", "key": "k"},
}


@pytest.mark.parametrize("source", CHANGED)
def test_the_contents_of_a_source_are_immutable(source: str) -> None:
    expected = [f"`{source}` is immutable"]
    new, old = {source: CHANGED[source]}, {source: SOURCES[source]}
    assert judge("Artifact", artifact(**new), artifact(**old)) == expected
    assert judge("Artifact", artifact(**old), artifact(**old)) == []
    files = [file("b", upload={}), file("a", **new)], [file("a", **old), file("b", upload={})]
    assert judge("Artifact", artifact(files=files[0]), artifact(files=files[1])) == expected


ENTRY_IS_IMMUTABLE = "an entry of `fileUploads` is immutable once set"
ENTRY_OF_NO_UPLOAD = "every name in `fileUploads` must be that of a file with `upload`"
FIRST, SECOND = {"digest": D1, "sizeBytes": 1}, {"digest": D2, "sizeBytes": 2}


@pytest.mark.parametrize(
    ("old", "new", "messages"),
    [
        (None, None, []),
        (None, {}, []),
        (None, {"a": FIRST}, []),
        ({"a": FIRST}, {"a": FIRST, "b": SECOND}, []),
        ({"a": FIRST}, {"a": {**FIRST, "sizeBytes": 2}}, [ENTRY_IS_IMMUTABLE]),
        ({"a": FIRST}, {"a": SECOND}, [ENTRY_IS_IMMUTABLE]),
        ({"a": FIRST}, {"b": SECOND}, [ENTRY_IS_IMMUTABLE]),
        ({"a": FIRST}, {}, [ENTRY_IS_IMMUTABLE]),
        ({"a": FIRST}, None, [ENTRY_IS_IMMUTABLE]),
        (None, {"c": FIRST}, [ENTRY_OF_NO_UPLOAD]),
        (None, {"absent": FIRST}, [ENTRY_OF_NO_UPLOAD]),
    ],
)
def test_what_was_uploaded_for_a_file_is_written_once(old: Any, new: Any, messages: list[str]) -> None:
    files = [file("a", upload={}), file("b", upload={}), file("c", **TEXT)]

    def with_uploads(uploads: Json | None) -> Json:
        return artifact(files=files, **({} if uploads is None else {"fileUploads": uploads}))

    assert judge("Artifact", with_uploads(new), with_uploads(old)) == messages


def test_without_files_nothing_is_uploaded_for_one() -> None:
    assert judge("Artifact", artifact(**TEXT, fileUploads={"a": FIRST})) == [ENTRY_OF_NO_UPLOAD]


UNSET: Json = {}


# Rows: old, new, how many messages. An optional field that may be set once: only unset -> set and same pass.
@pytest.mark.parametrize("field", ["digest", "sizeBytes"])
@pytest.mark.parametrize(
    ("old", "new", "refused"),
    [(None, 0, False), (0, None, True), (0, 1, True), (0, 0, False), (None, None, False)],
    ids=["unset->set", "set->unset", "change", "same", "still unset"],
)
def test_expectations_may_be_set_once(field: str, old: int | None, new: int | None, refused: bool) -> None:
    values = {"digest": (D1, D2), "sizeBytes": (7, 8)}[field]

    def with_field(at: int | None) -> Json:
        return UNSET if at is None else {field: values[at]}

    expected = [f"`{field}` is immutable once set"] if refused else []
    assert (
        judge("Artifact", artifact(**TEXT, **with_field(new)), artifact(**TEXT, **with_field(old)))
        == expected
    )
    files = [artifact(files=[file("a", **TEXT, **with_field(at))]) for at in (new, old)]
    assert judge("Artifact", files[0], files[1]) == expected


@pytest.mark.parametrize(
    ("old", "new", "messages"),
    [
        ({}, {"digest": D1, "sizeBytes": 1}, []),
        ({"digest": D1, "sizeBytes": 1}, {"digest": D1, "sizeBytes": 1, "expiresAfterSeconds": 60}, []),
        ({"digest": D1, "sizeBytes": 1}, {"digest": D2, "sizeBytes": 1}, ["`digest` is immutable once set"]),
        (
            {"digest": D1, "sizeBytes": 1},
            {"digest": D1, "sizeBytes": 2},
            ["`sizeBytes` is immutable once set"],
        ),
        (
            {"digest": D1, "sizeBytes": 1},
            {},
            ["`digest` is immutable once set", "`sizeBytes` is immutable once set"],
        ),
        ({}, {"digest": D1}, ["`digest` and `sizeBytes` must be set together"]),
        ({}, {"sizeBytes": 1}, ["`digest` and `sizeBytes` must be set together"]),
    ],
)
def test_the_result_of_an_upload_is_written_once_and_whole(old: Json, new: Json, messages: list[str]) -> None:
    assert judge("Artifact", artifact(upload=new), artifact(upload=old)) == messages
    files = [artifact(files=[file("a", upload=upload)]) for upload in (new, old)]
    assert judge("Artifact", files[0], files[1]) == messages


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"inline": {}}, "exactly one of `text` or `data` must be set"),
        ({"inline": {"text": "", "data": ""}}, "exactly one of `text` or `data` must be set"),
        ({"inline": {"text": "é" * 32769}}, "`text` must not be longer than 65536 bytes in UTF-8"),
        ({"inline": {"data": "eHh4" * 21846}}, "`data` must not be longer than 65536 bytes when decoded"),
        ({"url": {"url": "http://example.org/"}}, "`url` must begin with 'https://' and a host"),
        ({"url": {"url": "https:///etc/passwd"}}, "`url` must begin with 'https://' and a host"),
        ({"url": {"url": "file:///etc/passwd"}}, "`url` must begin with 'https://' and a host"),
        ({"url": {"url": "https://u:p@example.org/"}}, "`url` must not contain a user name or a password"),
        (
            {"files": [file("a", **TEXT)], "digest": D1},
            "`digest` and `sizeBytes` must not be set together with `files`; set them on each file",
        ),
        (
            {"files": [file("a", **TEXT)], "sizeBytes": 1},
            "`digest` and `sizeBytes` must not be set together with `files`; set them on each file",
        ),
        (
            {**TEXT, "annotations": {"a" * 254: ""}},
            "every key of `annotations` must be 1 to 253 characters long",
        ),
        ({**TEXT, "annotations": {"": ""}}, "every key of `annotations` must be 1 to 253 characters long"),
    ],
)
def test_an_artifact_is_refused_with_the_field_in_the_message(spec: Json, message: str) -> None:
    assert judge("Artifact", artifact(**spec)) == [message]


@pytest.mark.parametrize(
    "spec",
    [
        {"inline": {"text": "é" * 32768}},
        {"inline": {"data": "eHh4" * 21845 + "eA=="}},
        {"url": {"url": "https://example.org/a@b?c=d@e"}},
        {**TEXT, "annotations": {"a" * 253: "b"}},
    ],
)
def test_an_artifact_at_the_limit_is_accepted(spec: Json) -> None:
    assert judge("Artifact", artifact(**spec)) == []


@pytest.mark.parametrize("names", ["a", "abc", "ac"])
def test_files_cannot_be_added_removed_or_renamed(names: str) -> None:
    def spec(of: str) -> Json:
        return artifact(files=[file(name, **TEXT) for name in of])

    assert judge("Artifact", spec("ba"), spec("ab")) == []
    assert judge("Artifact", spec(names), spec("ab")) == ["the set of names in `files` is immutable"]


@pytest.mark.parametrize(
    ("kind", "old", "new", "field"),
    [
        ("Artifact", artifact(**TEXT), {**artifact(**TEXT), "mediaType": "a/b"}, "mediaType"),
        (
            "Artifact",
            artifact(files=[file("a", **TEXT)]),
            artifact(files=[{**file("a", **TEXT), "mediaType": "a/b"}]),
            "mediaType",
        ),
        ("Job", job(), {"jobType": "other"}, "jobType"),
    ],
)
def test_required_fields_are_immutable(kind: str, old: Json, new: Json, field: str) -> None:
    assert judge(kind, new, old) == [f"`{field}` is immutable"]
    assert judge(kind, old, old) == []


JOB_FIELDS: dict[str, tuple[Any, Any]] = {
    "project": ("a", "b"),
    "parameters": ([{"name": "a", "value": "1"}], [{"name": "a", "value": "2"}]),
    "inputs": (
        [{"name": "a", "artifactRef": {"name": "x"}, "path": "/a"}],
        [{"name": "a", "artifactRef": {"name": "y"}, "path": "/a"}],
    ),
    "outputs": ([{"name": "a", "path": "/a"}], [{"name": "a", "path": "/b"}]),
    "overrides": ({"image": "a"}, {"image": "b"}),
    "backoffLimit": (0, 1),
}


@pytest.mark.parametrize("field", JOB_FIELDS)
@pytest.mark.parametrize(
    ("old", "new", "refused"),
    [(None, 0, True), (0, None, True), (0, 1, True), (0, 0, False), (None, None, False)],
    ids=["unset->set", "set->unset", "change", "same", "still unset"],
)
def test_what_a_job_runs_is_immutable(field: str, old: int | None, new: int | None, refused: bool) -> None:
    def spec(at: int | None) -> Json:
        return job(**(UNSET if at is None else {field: JOB_FIELDS[field][at]}))

    assert judge("Job", spec(new), spec(old)) == ([f"`{field}` is immutable"] if refused else [])


@pytest.mark.parametrize(
    ("old", "new", "refused"),
    [
        (None, "Cancelled", False),
        ("Active", "Cancelled", False),
        ("Suspended", "Active", False),
        ("Suspended", None, False),
        (None, None, False),
        ("Cancelled", "Cancelled", False),
        ("Cancelled", None, True),
        ("Cancelled", "Active", True),
        ("Cancelled", "Suspended", True),
    ],
)
def test_cancelled_is_final(old: str | None, new: str | None, refused: bool) -> None:
    def spec(state: str | None) -> Json:
        return job(**(UNSET if state is None else {"desiredState": state}))

    message = "`desiredState` is immutable once it is 'Cancelled'; create a new Job to run again"
    assert judge("Job", spec(new), spec(old)) == ([message] if refused else [])


@pytest.mark.parametrize(
    ("old", "new", "refused"),
    [(None, 1, False), (None, None, False), (1, 1, False), (1, 2, False), (2, 1, True), (1, None, True)],
)
def test_retry_generation_only_grows(old: int | None, new: int | None, refused: bool) -> None:
    def spec(generation: int | None) -> Json:
        return job(**(UNSET if generation is None else {"retryGeneration": generation}))

    expected = ["`retryGeneration` must not decrease"] if refused else []
    assert judge("Job", spec(new), spec(old)) == expected


@pytest.mark.parametrize(
    ("limits", "refused"),
    [
        ({}, False),
        ({"maxRunning": 8000}, False),
        ({"maxQueued": 8000}, False),
        ({"maxRunning": 4000, "maxQueued": 4000}, False),
        ({"maxRunning": 4000, "maxQueued": 4001}, True),
    ],
)
def test_every_limit_fits_into_one_ledger(limits: Json, refused: bool) -> None:
    messages = judge("TenantQuota", {"tenants": ["a"], "jobs": [{"jobType": "x", **limits}]})
    assert bool(messages) == refused
    ledger = schemas.root(KINDS["QuotaLedger"])["properties"]["status"]["properties"]["holders"]
    assert ledger["maxProperties"] == 8000
    # Otherwise `managedFields` holds a copy of the whole map.
    assert ledger["x-kubernetes-map-type"] == "atomic"


def test_a_ledger_is_named_after_its_job_type() -> None:
    assert judge("QuotaLedger", {"jobType": "render"}) == []
    named = ["`spec.jobType` must be equal to `metadata.name`"]
    assert judge("QuotaLedger", {"jobType": "other"}) == named
    assert judge("QuotaLedger", {"jobType": "render"}, {"jobType": "render"}) == []
    changed = judge("QuotaLedger", {"jobType": "other"}, {"jobType": "render"})
    assert changed == [*named, "`jobType` is immutable"]


def test_a_ledger_is_for_a_job_type_or_for_the_storage() -> None:
    storage = "`spec.storage` must be set in `storage.manifestry`, and nowhere else"
    one_of = "exactly one of `jobType` or `storage` must be set"
    assert sorted(judge("QuotaLedger", {"jobType": "render", "storage": {}})) == [storage, one_of]
    assert judge("QuotaLedger", {}) == [one_of]
    turned = judge("QuotaLedger", {"storage": {}}, {"jobType": "render"})
    assert sorted(turned) == ["`jobType` is immutable", storage]


def test_sources_of_a_file_carry_the_rules_of_sources_of_the_payload() -> None:
    rules = schemas.rules(KINDS["Artifact"])
    in_files = [
        (path.replace(".files[]", ""), rule) for path, rule in rules if path.startswith(".spec.files[].")
    ]
    assert in_files
    assert [row for row in in_files if row not in rules] == []


def test_the_tables_above_have_seen_every_rule_hold_and_refuse(request: pytest.FixtureRequest) -> None:
    selected = {item.originalname for item in request.session.items if isinstance(item, pytest.Function)}
    if not {name for name in globals() if name.startswith("test_")} <= selected:
        pytest.skip("needs the whole module")
    wanted = {(_place(kind, path, rule), holds) for kind, path, rule in ALL_RULES for holds in (True, False)}
    assert sorted(wanted - SEEN) == []
