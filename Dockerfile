# One image for both components: `python -m manifestry` (operator) and `python -m manifestry_api` (facade).
ARG BASE_IMAGE=python:3.11-slim-bookworm
FROM ${BASE_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY hack/requirements/runtime.txt hack/requirements/build.txt /src/hack/requirements/
RUN python3 -m venv /opt/build \
 && /opt/build/bin/pip install --quiet --require-hashes -r hack/requirements/build.txt \
 && python3 -m venv /opt/manifestry \
 && /opt/manifestry/bin/pip install --quiet --require-hashes -r hack/requirements/runtime.txt
COPY pyproject.toml README.md LICENSE /src/
COPY operator /src/operator
COPY api /src/api
RUN /opt/build/bin/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir /tmp/wheels . \
 && /opt/manifestry/bin/pip install --quiet --no-deps --no-index /tmp/wheels/*.whl \
 && /opt/manifestry/bin/python -m compileall -q -j 0 /opt/manifestry/lib \
 && /opt/manifestry/bin/pip uninstall --quiet --yes setuptools pip

FROM ${BASE_IMAGE}
LABEL org.opencontainers.image.title="manifestry" \
      org.opencontainers.image.description="Kubernetes-native control plane for artifacts and jobs" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/manifestry /opt/manifestry
ENV PATH=/opt/manifestry/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 65532:65532
WORKDIR /tmp
EXPOSE 8080 8081 9443
CMD ["python", "-m", "manifestry_api"]
