from typing import Any

from manifestry.core.jobs import podspecs
from manifestry.core.kube import names

JOB: dict[str, Any] = {
    "metadata": {
        "name": "thumbs",
        "uid": "0123456789abcdef",
        "namespace": "team-acme",
        "labels": {"argocd.argoproj.io/instance": "app"},
        "annotations": {"note": "mine"},
    },
    "spec": {"jobType": "render", "project": "web"},
}
TYPE: dict[str, Any] = {"metadata": {"name": "render"}, "spec": {"image": "base:1"}}


def build(job_spec: Any = None, type_spec: Any = None, annotations: Any = None) -> dict[str, Any]:
    metadata = {**JOB["metadata"], "annotations": annotations or {}}
    job = {"metadata": metadata, "spec": {**JOB["spec"], **(job_spec or {})}}
    return podspecs.build(job, {**TYPE, "spec": {**TYPE["spec"], **(type_spec or {})}}, "acme")


def pod(**specs: Any) -> dict[str, Any]:
    return build(**specs)["spec"]["template"]["spec"]  # type: ignore[no-any-return]


def container(**specs: Any) -> dict[str, Any]:
    return pod(**specs)["containers"][0]  # type: ignore[no-any-return]


def env(**specs: Any) -> dict[str, str]:
    return {entry["name"]: entry["value"] for entry in container(**specs)["env"]}


def test_it_is_suspended_owned_and_named_after_the_job() -> None:
    body = build()
    assert body["metadata"]["name"] == "thumbs-01234567"
    assert body["spec"]["suspend"] is True
    (owner,) = body["metadata"]["ownerReferences"]
    assert (owner["uid"], owner["controller"], owner["blockOwnerDeletion"]) == (
        "0123456789abcdef",
        True,
        False,
    )
    assert "ttlSecondsAfterFinished" not in body["spec"]
    assert build() == body


def test_labels_are_ours_only_and_on_the_pod_too() -> None:
    body = build()
    expected = {
        names.JOB_UID_LABEL: "0123456789abcdef",
        names.JOB_NAME_LABEL: "thumbs",
        names.JOB_TYPE_LABEL: "render",
        names.TENANT_LABEL: "acme",
        names.PROJECT_LABEL: "web",
    }
    assert body["metadata"]["labels"] == expected
    assert body["spec"]["template"]["metadata"] == {"labels": expected}
    assert "annotations" not in body["metadata"]
    assert names.PROJECT_LABEL not in build(job_spec={"project": None})["metadata"]["labels"]


def test_the_pod_fits_the_restricted_standard() -> None:
    spec, main = pod(), container()
    assert spec["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    assert main["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert spec["automountServiceAccountToken"] is False
    assert "serviceAccountName" not in spec
    assert spec["restartPolicy"] == "Never"
    assert main["volumeMounts"] == [{"name": "tmp", "mountPath": "/tmp"}]


def test_a_token_only_where_the_type_names_an_account() -> None:
    spec = pod(type_spec={"serviceAccountName": "worker", "runAsUser": 1000, "runAsGroup": 0})
    assert (spec["serviceAccountName"], spec["automountServiceAccountToken"]) == ("worker", True)
    assert (spec["securityContext"]["runAsUser"], spec["securityContext"]["runAsGroup"]) == (1000, 0)


def test_what_the_type_says_reaches_the_pod_and_overrides_win() -> None:
    offered = {
        "command": ["run"],
        "args": ["$(PARAM_N)"],
        "resources": {"limits": {"cpu": "1"}},
        "workingDir": "/w",
        "imagePullPolicy": "Never",
        "nodeSelector": {"disk": "ssd"},
        "tolerations": [{"key": "k"}],
        "imagePullSecrets": [{"name": "s"}],
    }
    spec, main = pod(type_spec=offered), container(type_spec=offered)
    assert (main["command"], main["args"], main["workingDir"]) == (["run"], ["$(PARAM_N)"], "/w")
    assert main["imagePullPolicy"] == "Never"
    assert (spec["nodeSelector"], spec["tolerations"]) == ({"disk": "ssd"}, [{"key": "k"}])
    assert spec["imagePullSecrets"] == [{"name": "s"}]
    overrides = {"image": "mine:2", "args": ["x"], "resources": {"limits": {"cpu": "2"}}}
    main = container(type_spec=offered, job_spec={"overrides": overrides})
    assert (main["image"], main["command"], main["args"]) == ("mine:2", ["run"], ["x"])
    assert main["resources"] == {"limits": {"cpu": "2"}}


def test_limits_of_a_run() -> None:
    assert build()["spec"]["backoffLimit"] == 0
    spec = build(job_spec={"activeDeadlineSeconds": 9}, type_spec={"backoffLimit": 2})["spec"]
    assert (spec["backoffLimit"], spec["activeDeadlineSeconds"]) == (2, 9)
    assert spec["podReplacementPolicy"] == "Failed"


def test_the_environment() -> None:
    schema = {"properties": {"n": {"type": "integer"}, "sub-title": {"type": "string"}}}
    parameters = [{"name": "n", "value": "3"}, {"name": "sub-title", "value": "costs $(HOME) $$ $"}]
    found = env(
        type_spec={
            "parametersSchema": schema,
            "env": [{"name": "A", "value": "type"}, {"name": "B"}, {"name": "PARAM_N", "value": "stolen"}],
        },
        job_spec={"parameters": parameters, "overrides": {"env": [{"name": "A", "value": "job"}]}},
        annotations={names.TRACEPARENT_ANNOTATION: "00-" + "a" * 32 + "-" + "b" * 16 + "-01"},
    )
    assert found == {
        "MANIFESTRY_JOB": "thumbs",
        "MANIFESTRY_TENANT": "acme",
        "MANIFESTRY_PROJECT": "web",
        "TRACEPARENT": "00-" + "a" * 32 + "-" + "b" * 16 + "-01",
        "PARAM_N": "3",
        "PARAM_SUB_TITLE": "costs $$(HOME) $$$$ $$",
        "A": "job",
        "B": "",
    }


def test_a_traceparent_that_is_none_is_left_out() -> None:
    assert "TRACEPARENT" not in env(annotations={names.TRACEPARENT_ANNOTATION: "nonsense"})
