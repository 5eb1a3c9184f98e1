"""Names and paths."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifestry.core.kube import names


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (names.JOBS.path(), "/apis/manifestry.dev/v1alpha1/jobs"),
        (names.JOBS.path("ns"), "/apis/manifestry.dev/v1alpha1/namespaces/ns/jobs"),
        (names.JOBS.path("ns", "j", "status"), "/apis/manifestry.dev/v1alpha1/namespaces/ns/jobs/j/status"),
        (names.BATCH_JOBS.path("ns", "j"), "/apis/batch/v1/namespaces/ns/jobs/j"),
        (names.PODS.path("ns", "p", "log"), "/api/v1/namespaces/ns/pods/p/log"),
        (names.NAMESPACES.path(name="ns"), "/api/v1/namespaces/ns"),
        (names.JOB_TYPES.path(name="t"), "/apis/manifestry.dev/v1alpha1/jobtypes/t"),
    ],
)
def test_paths_are_those_of_the_kubernetes_api(path: str, expected: str) -> None:
    assert path == expected


def test_the_api_version_of_the_core_group_has_no_slash() -> None:
    assert names.PODS.api_version == "v1"
    assert names.JOBS.api_version == "manifestry.dev/v1alpha1"


@pytest.mark.parametrize("text", ["a", "a1", "a-b", "0", "a" * 63])
def test_a_dns_label_is_one(text: str) -> None:
    assert names.is_dns_label(text)


@pytest.mark.parametrize("text", ["", "-a", "a-", "A", "a.b", "a_b", "ä", "a\n", "a/b", "..", "a" * 64])
def test_what_is_no_dns_label_is_none(text: str) -> None:
    assert not names.is_dns_label(text)


def test_a_dns_label_may_be_asked_to_be_shorter() -> None:
    assert not names.is_dns_label("a" * 53, names.NAME_MAX_LENGTH)


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("sha256:" + "0a" * 32, True),
        ("sha256:" + "0A" * 32, False),
        ("sha256:" + "0a" * 31, False),
        ("sha512:" + "0a" * 64, False),
        ("sha256:" + "0a" * 32 + "\n", False),
        ("", False),
    ],
)
def test_only_a_canonical_digest_is_a_digest(text: str, good: bool) -> None:
    assert names.is_digest(text) is good


@given(st.from_regex(r"[a-z0-9]([a-z0-9-]{0,50}[a-z0-9])?", fullmatch=True), st.uuids())
def test_a_batch_jobs_name_is_a_label_and_depends_on_the_uid(name: str, uid: object) -> None:
    made = names.batch_job_name(name, str(uid))
    assert names.is_dns_label(made)
    assert made == f"{name}-{str(uid)[:8]}"


def test_labels_and_annotations_carry_our_own_prefix() -> None:
    keys = [
        value
        for name, value in vars(names).items()
        if name.endswith(("_LABEL", "_ANNOTATION")) and isinstance(value, str)
    ]
    assert len(keys) > 8
    assert all(key.startswith("manifestry.dev/") and key == key.lower() for key in keys)
