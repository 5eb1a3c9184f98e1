#!/usr/bin/env bash
# Build the image, load it and install the chart into the cluster that `hack/kind env` names.
set -euo pipefail
cd "$(dirname "$0")/.."
tag="${MANIFESTRY_IMAGE:-localhost/manifestry:dev}"
namespace="${MANIFESTRY_NAMESPACE:-manifestry-system}"
say() { printf '== %s  (%d s)\n' "$1" "$SECONDS"; }

say "image $tag"
python3 hack/kind build-image --tag "$tag"
python3 hack/kind load-image --tag "$tag"

say "chart into $namespace"
helm upgrade --install manifestry charts/manifestry --namespace "$namespace" --create-namespace \
  --set "image.repository=${tag%:*}" --set "image.tag=${tag##*:}" --set api.service.type=NodePort \
  --set-string "operator.podAnnotations.build=$(docker image inspect -f '{{.Id}}' "$tag" 2>/dev/null | cut -c8-19)" \
  --set-string "api.podAnnotations.build=$(docker image inspect -f '{{.Id}}' "$tag" 2>/dev/null | cut -c8-19)" \
  --wait --timeout 5m >/dev/null
say "operator and facade are ready"
