"""Register the admission webhook of a facade that runs as a plain process."""

import base64

from tests.controlplane.clusterapi import ClusterApi, Object

CONFIGURATIONS = "admissionregistration.k8s.io/v1/validatingwebhookconfigurations"


def configuration(url: str, ca_pem: bytes, *, name: str, failure_policy: str, timeout_seconds: int) -> Object:
    """Return the configuration as in the chart, but with a URL in the place of a Service."""
    rule = {
        "apiGroups": ["manifestry.dev"],
        "apiVersions": ["v1alpha1"],
        "operations": ["CREATE"],
        "resources": ["jobs"],
        "scope": "Namespaced",
    }
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": name},
        "webhooks": [
            {
                "name": "jobs.manifestry.dev",
                "clientConfig": {"url": url, "caBundle": base64.b64encode(ca_pem).decode()},
                "rules": [rule],
                "failurePolicy": failure_policy,
                "matchPolicy": "Equivalent",
                "sideEffects": "NoneOnDryRun",
                "admissionReviewVersions": ["v1"],
                "timeoutSeconds": timeout_seconds,
            }
        ],
    }


def register_webhook(
    cp: ClusterApi,
    url: str,
    ca_pem: bytes,
    *,
    name: str = "manifestry",
    failure_policy: str = "Fail",
    timeout_seconds: int = 5,
) -> None:
    """Register the webhook, in the place of an earlier one of that name.

    The API server takes up a change a moment later: to rely on it, try a dry run until it is there.

    Args:
        url: a facade's `webhook_url`, its secret path included.
        ca_pem: the authority of the certificate served there.
    """
    cp.apply(
        CONFIGURATIONS,
        configuration(url, ca_pem, name=name, failure_policy=failure_policy, timeout_seconds=timeout_seconds),
    )


def unregister_webhook(cp: ClusterApi, *, name: str = "manifestry") -> None:
    """Remove the webhook."""
    cp.delete(CONFIGURATIONS, name)
