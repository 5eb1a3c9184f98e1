"""The manifest: canonical, deterministic, an OCI 1.1 image manifest."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifestry.core.artifacts import manifests
from manifestry.core.artifacts.manifests import Descriptor, Manifest
from manifestry.core.blobs import digests

LAYER = Descriptor("text/plain", digests.of(b"hello"), 5, {manifests.TITLE: "greeting.txt"})


def test_the_bytes_are_these() -> None:
    annotations = manifests.describe(
        "greeting", "acme", {"project": "web", "annotations": {"b": "2", "a": "1"}}
    )
    assert manifests.render(Manifest("text/plain", [LAYER], annotations)) == (
        b'{"annotations":{"a":"1","b":"2","dev.manifestry.name":"greeting","dev.manifestry.project":"web",'
        b'"dev.manifestry.tenant":"acme"},"artifactType":"text/plain","config":{"data":"e30=","digest":'
        b'"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","mediaType":'
        b'"application/vnd.oci.empty.v1+json","size":2},"layers":[{"annotations":'
        b'{"org.opencontainers.image.title":"greeting.txt"},"digest":'
        b'"sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824","mediaType":"text/plain",'
        b'"size":5}],"mediaType":"application/vnd.oci.image.manifest.v1+json","schemaVersion":2}'
    )


def test_the_empty_config_is_what_its_digest_says() -> None:
    data = base64.b64decode(manifests.EMPTY.data or "")
    assert (digests.of(data), len(data)) == (manifests.EMPTY.digest, manifests.EMPTY.size_bytes)


def test_subject_and_config_are_named_where_given() -> None:
    subject = Descriptor(manifests.MEDIA_TYPE, digests.of(b"s"), 1)
    config = Descriptor("application/json", digests.of(b"c"), 1)
    document = json.loads(manifests.render(Manifest("a/b", [LAYER], {}, subject, config)))
    assert document["subject"] == {"mediaType": manifests.MEDIA_TYPE, "digest": digests.of(b"s"), "size": 1}
    assert document["config"]["digest"] == digests.of(b"c")
    assert "annotations" not in document


def test_a_publisher_cannot_take_our_annotations() -> None:
    spec = {"annotations": {"dev.manifestry.tenant": "other", "dev.manifestry.x": "1", "ok": "1", "no": 7}}
    assert manifests.describe("n", "acme", spec) == {
        "ok": "1",
        "dev.manifestry.name": "n",
        "dev.manifestry.tenant": "acme",
    }


@pytest.mark.parametrize("spec", [{}, {"annotations": None}, {"annotations": [1]}, {"project": 4}])
def test_annotations_of_a_strange_spec_are_left_out(spec: dict[str, object]) -> None:
    assert manifests.describe("n", "t", spec) == {"dev.manifestry.name": "n", "dev.manifestry.tenant": "t"}


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        (Manifest("a/b", [], {}), "at least one layer"),
        (Manifest("a/b", [LAYER], {"a": "\ud800"}), "must be Unicode"),
        (Manifest("a/b", [LAYER], {"\ud800": "a"}), "must be Unicode"),
        (Manifest("a/b", [Descriptor("a/b", LAYER.digest, 1 << 60)], {}), "must be"),
        (Manifest("a/b", [LAYER], {"a": "x" * manifests.MAX_BYTES}), "must not be more than 4194304"),
    ],
)
def test_what_cannot_be_a_manifest_is_refused(manifest: Manifest, message: str) -> None:
    with pytest.raises(manifests.ManifestError, match=message):
        manifests.render(manifest)


NAMES = st.text(st.characters(codec="utf-8"), max_size=20)


@given(st.dictionaries(NAMES, NAMES, max_size=8), st.randoms())
def test_the_order_of_annotations_does_not_matter(annotations: dict[str, str], random: object) -> None:
    items = list(annotations.items())
    random.shuffle(items)  # type: ignore[attr-defined]
    first = manifests.render(Manifest("a/b", [LAYER], annotations))
    assert first == manifests.render(Manifest("a/b", [LAYER], dict(items)))
    assert json.loads(first).get("annotations", {}) == annotations
