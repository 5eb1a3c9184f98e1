"""The manifest pointer: canonical bytes of an OCI 1.1 image manifest that describes an artifact.

One artifact has one manifest, byte for byte, whoever computes it and whenever: there is no time in it, not
even the object's creation, because that differs between two clusters fed from one Git repository and after a
restore. A publisher who wants `org.opencontainers.image.created` sets it in `spec.annotations`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import rfc8785

from manifestry.core.blobs import digests

MEDIA_TYPE: Final = "application/vnd.oci.image.manifest.v1+json"
MAX_BYTES: Final = 4 << 20  # what every registry must take: distribution-spec "Pushing Manifests"
TITLE: Final = "org.opencontainers.image.title"
PREFIX: Final = "dev.manifestry."  # reserved; a publisher's annotations under it are left out


class ManifestError(ValueError):
    """The parts do not make a manifest; the message says what must change."""


@dataclass(frozen=True)
class Descriptor:
    """A pointer to stored bytes.

    Args:
        data: the bytes themselves in base64, for very small ones.

    References: OCI image-spec descriptor.md.
    """

    media_type: str
    digest: str
    size_bytes: int
    annotations: Mapping[str, str] = field(default_factory=dict)
    data: str | None = None

    def render(self) -> dict[str, Any]:
        """Return the descriptor as JSON has it, without empty members."""
        optional = {"annotations": dict(self.annotations), "data": self.data}
        return {
            "mediaType": self.media_type,
            "digest": self.digest,
            "size": self.size_bytes,
            **{name: value for name, value in optional.items() if value},
        }


# OCI image-spec manifest.md "Guidance for an Empty Descriptor".
EMPTY: Final = Descriptor("application/vnd.oci.empty.v1+json", digests.of(b"{}"), 2, data="e30=")


@dataclass(frozen=True)
class Manifest:
    """What a manifest says.

    Args:
        artifact_type: media type of the whole; it must be there when `config` is the empty descriptor.
        layers: the payload, in its order; at least one.
        subject: the manifest that this one describes.
        config: the governance manifest, where there is one.
    """

    artifact_type: str
    layers: Sequence[Descriptor]
    annotations: Mapping[str, str]
    subject: Descriptor | None = None
    config: Descriptor = EMPTY


def describe(name: str, tenant: str, spec: Mapping[str, Any]) -> dict[str, str]:
    """Return a manifest's annotations: the publisher's own, then ours.

    Args:
        name: `metadata.name` of the Artifact.
        tenant: the tenant that owns it.
        spec: the Artifact's spec; members that are not strings are left out.
    """
    given = spec.get("annotations")
    own = given.items() if isinstance(given, Mapping) else ()
    kept = {key: value for key, value in own if isinstance(value, str) and not key.startswith(PREFIX)}
    ours = {"name": name, "tenant": tenant, "project": spec.get("project")}
    return kept | {PREFIX + key: value for key, value in ours.items() if isinstance(value, str) and value}


def render(manifest: Manifest) -> bytes:
    """Return the canonical bytes, the ones to be stored, hashed and served.

    Raises:
        ManifestError: no layer, a text that is not Unicode, or more than `MAX_BYTES`.

    References: RFC 8785 (JCS); OCI image-spec manifest.md.
    """
    if not manifest.layers:
        raise ManifestError("a manifest must have at least one layer")
    try:
        rendered = rfc8785.dumps(_document(manifest))
    except (rfc8785.CanonicalizationError, UnicodeEncodeError):
        raise ManifestError("the texts of `spec` must be Unicode") from None
    if len(rendered) > MAX_BYTES:
        raise ManifestError(f"the manifest must not be more than {MAX_BYTES} bytes")
    return rendered


def _document(manifest: Manifest) -> dict[str, Any]:
    document: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": MEDIA_TYPE,
        "artifactType": manifest.artifact_type,
        "config": manifest.config.render(),
        "layers": [layer.render() for layer in manifest.layers],
    }
    if manifest.annotations:
        document["annotations"] = dict(manifest.annotations)
    if manifest.subject is not None:
        document["subject"] = manifest.subject.render()
    return document
