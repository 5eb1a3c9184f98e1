"""The identity pipeline that the settings describe."""

from manifestry.adapters.kube import cluster
from manifestry.settings import ApiSettings
from manifestry_api.access import identity, keysets, tokens


def configured(settings: ApiSettings, client: cluster.KubeClient) -> list[identity.Authenticator]:
    """Return the authenticators, in the order in which they are asked; empty for none."""
    if not settings.kubernetes_issuer:
        return []
    return [
        tokens.JwtAuthenticator(
            keysets.KeySet(keysets.KubernetesKeys(client)),
            audience=settings.jwt_audience,
            leeway_seconds=settings.jwt_leeway_seconds,
            identify=tokens.kubernetes_identity,
            is_current=tokens.kubernetes_review(client, settings.jwt_audience),
        )
    ]
