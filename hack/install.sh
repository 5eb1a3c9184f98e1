#!/usr/bin/env bash
# Build the image, load it and install the chart into the cluster that `hack/kind env` names.
set -euo pipefail
cd "$(dirname "$0")/.."
tag="${MANIFESTRY_IMAGE:-localhost/manifestry:dev}"
namespace="${MANIFESTRY_NAMESPACE:-manifestry-system}"
say() { printf '== %s  (%d s)\n' "$1" "$SECONDS"; }
why() {
  kubectl -n "$namespace" get pods || true
  for component in operator api; do
    kubectl -n "$namespace" logs "deploy/manifestry-$component" --tail=20 || true
  done
}

say "image $tag"
python3 hack/kind build-image --tag "$tag"
python3 hack/kind load-image --tag "$tag"
# the tag stays, so the image's identity must change the pods for a new build to be taken
build=$(docker image inspect -f '{{.Id}}' "$tag" 2>/dev/null | cut -c8-19 || true)

say "chart into $namespace"
if ! helm upgrade --install manifestry charts/manifestry --namespace "$namespace" --create-namespace \
  --set "image.repository=${tag%:*}" --set "image.tag=${tag##*:}" --set api.service.type=NodePort \
  --set-string "operator.podAnnotations.build=$build" --set-string "api.podAnnotations.build=$build" \
  --wait --timeout "${MANIFESTRY_INSTALL_TIMEOUT:-3m}" >/dev/null; then
  why
  exit 1
fi
say "operator and facade are ready"
