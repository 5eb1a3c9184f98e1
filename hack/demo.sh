#!/usr/bin/env bash
# The main job, shown: the README's quick start, run as it stands there.
set -euo pipefail
cd "$(dirname "$0")/.."
.venv/bin/python hack/walkthrough.py README.md "Quick start"
cat <<'TXT'

What to try next
  eval "$(python3 hack/kind env)"                     this shell now talks to the demo cluster
  kubectl -n acme get mart,mjob -o wide               what the tenant has
  kubectl explain mjob.spec                           every field, described
  kubectl -n manifestry-system port-forward svc/manifestry-api 8080:80
  open http://127.0.0.1:8080/docs                     the REST contract
  make test                                           everything that proves it
How to stop
  make down                                           leaves nothing but the cache
TXT
