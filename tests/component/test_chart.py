"""The chart as helm renders it: valid, deterministic, least privilege, in step with crds/."""

import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts/manifestry"
VALUES = sorted((CHART / "ci").glob("*-values.yaml"))
WORKLOADS = ("Deployment", "StatefulSet", "DaemonSet", "Job")


@cache
def helm() -> str:
    """Return the pinned helm."""
    argv = [sys.executable, str(ROOT / "hack/kind"), "binaries", "helm"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=900, check=True)
    return str(json.loads(done.stdout)["helm"])


def render(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run `helm template` on the chart."""
    argv = [helm(), "template", "manifestry", str(CHART), "-n", "manifestry-system", *arguments]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert not check or done.returncode == 0, done.stderr
    return done


def objects(*arguments: str) -> list[dict[str, Any]]:
    """Return the rendered objects."""
    return [found for found in yaml.safe_load_all(render(*arguments).stdout) if found]


@pytest.mark.timeout(960)
def test_helm_is_at_hand() -> None:
    assert Path(helm()).is_file()


@pytest.mark.parametrize("values", VALUES, ids=lambda path: path.stem)
def test_every_values_file_lints_and_renders_the_same_twice(values: Path) -> None:
    lint = subprocess.run(
        [helm(), "lint", "--strict", str(CHART), "-f", str(values)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert lint.returncode == 0, lint.stdout + lint.stderr
    first, second = (render("-f", str(values)).stdout for _ in range(2))
    assert first == second
    assert "lookup" not in "".join(path.read_text() for path in (CHART / "templates").iterdir())


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ("typo=1", "typo"),
        ("storage.type=floppy", "/storage/type"),
        ("storage.type=s3", "/storage/bucket"),
        ("storage.type=azure,storage.bucket=b", "/storage/account"),
        ("storage.type=azure,storage.bucket=b,storage.account=Not_One", "/storage/account"),
        ("storage.extraEnv[0].value=x", "/storage/extraEnv/0"),
        (r"api.podLabels.app\.kubernetes\.io/name=other", "/api/podLabels"),
        (r"serviceAccount.annotations.example\.com/a=1", "/serviceAccount/annotations"),
        ("operator.replicas=many", "/operator/replicas"),
        ("image.digest=latest", "/image/digest"),
        ("operator.fetch.allowedCidrs={10.0.0.1}", "/operator/fetch/allowedCidrs"),
    ],
)
def test_a_wrong_value_is_refused_by_name(wrong: str, named: str) -> None:
    done = render("--set", wrong, check=False)
    assert done.returncode != 0
    assert named in done.stderr


def test_the_definitions_are_those_of_crds_and_stay_after_uninstall() -> None:
    sources = {path.name: path.read_bytes() for path in (ROOT / "crds").glob("*.yaml")}
    copies = {path.name: path.read_bytes() for path in (CHART / "files/crds").glob("*.yaml")}
    assert sources == copies, "run `make verify`"
    rendered = {o["metadata"]["name"]: o for o in objects() if o["kind"] == "CustomResourceDefinition"}
    for text in sources.values():
        source = yaml.safe_load(text)
        found = rendered[source["metadata"]["name"]]
        assert found["spec"] == source["spec"]
        assert found["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


def test_the_claim_stays_after_uninstall() -> None:
    (claim,) = [o for o in objects() if o["kind"] == "PersistentVolumeClaim"]
    assert claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


def test_pods_meet_the_restricted_standard() -> None:
    for found in objects("--set", "operator.replicas=2,api.replicas=2"):
        if found["kind"] not in WORKLOADS:
            continue
        pod = found["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert {"livenessProbe", "readinessProbe", "startupProbe"} <= container.keys()
            assert {"requests", "limits"} <= container["resources"].keys()


def test_roles_have_no_wildcard_and_secrets_only_by_name() -> None:
    for found in objects():
        for rule in found.get("rules", []) if "Role" in found["kind"] else []:
            assert "*" not in str(rule), found["metadata"]["name"]
            reads_secrets = "secrets" in rule.get("resources", []) and rule["verbs"] != ["create"]
            assert not reads_secrets or rule.get("resourceNames"), found["metadata"]["name"]
            impersonates = "impersonate" in rule["verbs"] and "groups" in rule["resources"]
            assert not impersonates or all(n.startswith("manifestry:") for n in rule["resourceNames"])


@pytest.mark.parametrize(("value", "resource"), [("configMaps", "configmaps"), ("secrets", "secrets")])
def test_references_are_read_only_where_the_administrator_says_so(value: str, resource: str) -> None:
    def readable(*arguments: str) -> set[str]:
        (role,) = [
            o
            for o in objects(*arguments)
            if o["metadata"]["name"] == "manifestry-controller" and o["kind"] == "ClusterRole"
        ]
        return {each for rule in role["rules"] if rule["verbs"] == ["get"] for each in rule["resources"]}

    assert resource not in readable()
    assert readable("--set", f"operator.references.{value}=true") - readable() == {resource}


def test_authorities_for_fetches_are_mounted() -> None:
    arguments = (
        "--set",
        "operator.fetch.caConfigMap=corporate,operator.fetch.allowedCidrs={10.0.0.0/8,fd00::/8}",
    )
    (found,) = [
        o for o in objects(*arguments) if o["kind"] == "Deployment" and "operator" in o["metadata"]["name"]
    ]
    pod = found["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    env = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert env["MANIFESTRY_FETCH_CA_FILE"] == "/etc/manifestry/fetch/ca.crt"
    assert env["MANIFESTRY_FETCH_ALLOWED_CIDRS"] == "10.0.0.0/8,fd00::/8"
    assert env["MANIFESTRY_FETCH_MAX_BYTES"] == "5368709120"
    assert {"name": "fetch-ca", "configMap": {"name": "corporate"}} in pod["volumes"]


def test_the_webhook_concerns_only_the_creation_of_our_jobs() -> None:
    (hook,) = [o for o in objects() if o["kind"] == "ValidatingWebhookConfiguration"]
    (entry,) = hook["webhooks"]
    (rule,) = entry["rules"]
    assert (rule["apiGroups"], rule["resources"], rule["operations"]) == (
        ["manifestry.dev"],
        ["jobs"],
        ["CREATE"],
    )
    assert entry["sideEffects"] == "NoneOnDryRun"
    assert "caBundle" not in entry["clientConfig"]
    assert "path" not in entry["clientConfig"]["service"]
    assert not [o for o in objects("--set", "webhook.enabled=false") if "Webhook" in o["kind"]]


@pytest.mark.parametrize("managed", ["true", "false"])
def test_the_webhooks_path_is_in_a_secret_that_operator_and_facade_may_read(managed: str) -> None:
    found = objects("--set", f"webhook.certificates.managed={managed}", "--set", "fullnameOverride=mine")
    pods = [each["spec"] for each in found if each["kind"] == "Deployment"]
    for env in map(environment, pods):
        assert env["MANIFESTRY_WEBHOOK_PATH_SECRET"] == "mine-webhook-path"
        assert env["MANIFESTRY_WEBHOOK_ENABLED"] == "true"
    assert len(pods) == 2
    rules = [
        (each["metadata"]["name"], rule["verbs"])
        for each in found
        if each["kind"] == "Role"
        for rule in each["rules"]
        if "mine-webhook-path" in rule.get("resourceNames", ())
    ]
    assert rules == [
        ("mine-controller", ["get", "update", "patch"]),
        ("mine-facade", ["get", "list", "watch"]),
    ]


def test_without_the_webhook_neither_component_cares_for_it() -> None:
    for each in objects("--set", "webhook.enabled=false"):
        if each["kind"] == "Deployment":
            assert environment(each["spec"])["MANIFESTRY_WEBHOOK_ENABLED"] == "false"


EXAMPLES = re.findall(
    r"^```yaml\n(.*?)^```$", (ROOT / "docs/stores.md").read_text(), re.DOTALL | re.MULTILINE
)


def deployments(values: str, folder: Path) -> dict[str, dict[str, Any]]:
    """Return the pods that a values file gives, by their component."""
    (folder / "values.yaml").write_text(values)
    found = [each for each in objects("-f", str(folder / "values.yaml")) if each["kind"] == "Deployment"]
    pods = {each["metadata"]["labels"]["app.kubernetes.io/component"]: each["spec"] for each in found}
    assert pods.keys() == {"operator", "api"}
    return pods


def environment(deployment: dict[str, Any]) -> dict[str, Any]:
    """Return the variables of the only container; each may be there once."""
    (container,) = deployment["template"]["spec"]["containers"]
    names = [entry["name"] for entry in container["env"]]
    assert len(names) == len(set(names))
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container["env"]}


@pytest.mark.parametrize("values", EXAMPLES, ids=lambda text: yaml.safe_load(text)["storage"]["type"])
def test_every_example_of_a_store_gives_both_components_the_bucket(values: str, tmp_path: Path) -> None:
    wanted = yaml.safe_load(values)["storage"]
    for deployment in deployments(values, tmp_path).values():
        env = environment(deployment)
        assert env["MANIFESTRY_STORE_TYPE"] == wanted["type"]
        assert env["MANIFESTRY_STORE_BUCKET"] == wanted["bucket"]
        assert "MANIFESTRY_STORE_PATH" not in env
        assert {entry["name"] for entry in wanted.get("extraEnv", [])} <= env.keys()
        assert [each["name"] for each in deployment["template"]["spec"]["volumes"]] == ["tmp"]


def test_a_pod_that_starts_does_not_change_every_stored_file(tmp_path: Path) -> None:
    for deployment in deployments("", tmp_path).values():
        context = deployment["template"]["spec"]["securityContext"]
        assert (context["fsGroup"], context["fsGroupChangePolicy"]) == (65532, "OnRootMismatch")


@pytest.mark.parametrize(("given", "wanted"), [("null", None), ("0", "0"), ("21474836480", "21474836480")])
def test_the_floor_for_new_bytes_is_the_same_for_both_components(
    given: str, wanted: str | None, tmp_path: Path
) -> None:
    for deployment in deployments(f"storage: {{reserveBytes: {given}}}", tmp_path).values():
        assert environment(deployment).get("MANIFESTRY_STORE_RESERVE_BYTES") == wanted


@pytest.mark.parametrize(
    ("kind", "account", "secret"),
    [
        ("s3", ("store-secret", "accessKeyId"), "secretAccessKey"),
        ("gcs", None, "serviceAccountKey"),
        ("azure", "examplestore", "accountKey"),
    ],
)
def test_keys_of_a_bucket_come_from_a_secret(
    kind: str, account: tuple[str, str] | str | None, secret: str, tmp_path: Path
) -> None:
    storage = {"type": kind, "bucket": "b", "existingSecret": "store-secret"}
    storage |= {"account": "examplestore"} if kind == "azure" else {}
    for deployment in deployments(yaml.safe_dump({"storage": storage}), tmp_path).values():
        env = environment(deployment)
        assert env.get("MANIFESTRY_STORE_ACCESS_KEY_ID") == (
            {"secretKeyRef": {"name": account[0], "key": account[1]}}
            if isinstance(account, tuple)
            else account
        )
        assert env["MANIFESTRY_STORE_SECRET_ACCESS_KEY"] == {
            "secretKeyRef": {"name": "store-secret", "key": secret}
        }


@pytest.mark.parametrize("kind", ["s3", "gcs", "azure"])
def test_without_a_secret_no_key_is_in_the_environment(kind: str, tmp_path: Path) -> None:
    values = {"storage": {"type": kind, "bucket": "b", "account": "examplestore"}}
    for deployment in deployments(yaml.safe_dump(values), tmp_path).values():
        env = environment(deployment)
        assert "MANIFESTRY_STORE_SECRET_ACCESS_KEY" not in env
        assert env.get("MANIFESTRY_STORE_ACCESS_KEY_ID") == ("examplestore" if kind == "azure" else None)


def test_pods_can_have_the_identity_of_a_cloud(tmp_path: Path) -> None:
    (values,) = [text for text in EXAMPLES if "podLabels" in text]
    for component, deployment in deployments(values, tmp_path).items():
        labels = deployment["template"]["metadata"]["labels"]
        assert labels["azure.workload.identity/use"] == "true"
        assert labels["app.kubernetes.io/component"] == component
        assert "azure.workload.identity/use" not in deployment["selector"]["matchLabels"]
    accounts = [
        each for each in objects("-f", str(tmp_path / "values.yaml")) if each["kind"] == "ServiceAccount"
    ]
    assert {each["metadata"]["name"] for each in accounts} == {"manifestry-operator", "manifestry-api"}
    for each in accounts:
        assert list(each["metadata"]["annotations"]) == ["azure.workload.identity/client-id"]


def test_selectors_hold_no_version() -> None:
    for found in objects():
        selector = found.get("spec", {}).get("selector") or {}
        labels = selector.get("matchLabels", selector)
        assert not {key for key in labels if "version" in key or "chart" in key}


def test_every_setting_that_the_chart_sets_exists() -> None:
    from manifestry import settings

    sections = (
        settings.StoreSettings,
        settings.ClusterSettings,
        settings.OperatorSettings,
        settings.ApiSettings,
    )
    known = {settings.PREFIX + name.upper() for section in sections for name in section.model_fields}
    for values in VALUES:
        for found in objects("-f", str(values)):
            if found["kind"] == "Deployment":
                (container,) = found["spec"]["template"]["spec"]["containers"]
                assert {entry["name"] for entry in container["env"]} <= known
