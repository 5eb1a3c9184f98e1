"""The identity pipeline: authenticators are asked in order; the first that knows the credential answers.

Everything after it (headers, grants, access table) is the same code for whichever one matched. Further JWT
issuers and client certificates are further authenticators in the list.
"""

from collections.abc import Sequence
from typing import Protocol

from starlette.requests import HTTPConnection

from manifestry.core import errors
from manifestry.core.access import identities
from manifestry_api.request import contexts

TOKEN_MAX_LENGTH = 16 << 10


class Authenticator(Protocol):
    """Checks one kind of credential."""

    async def authenticate(self, connection: HTTPConnection) -> identities.Identity | None:
        """Return who it is, or None when the credential is absent or another authenticator's.

        Raises:
            Problem: `unauthenticated`, the credential is this authenticator's and is not valid.
        """


class Pipeline:
    """The ordered authenticators as one."""

    def __init__(self, authenticators: Sequence[Authenticator]) -> None:
        self._authenticators = tuple(authenticators)

    async def identify(self, connection: HTTPConnection) -> identities.Identity:
        """Return the caller's identity.

        Raises:
            Problem: `unauthenticated`.
        """
        for authenticator in self._authenticators:
            identity = await authenticator.authenticate(connection)
            if identity is not None:
                identities.check_subject(identity)
                return identity
        raise unauthenticated("credentials of a known issuer must be sent as `Authorization: Bearer`")


def bearer_token(connection: HTTPConnection) -> str | None:
    """Return the bearer token, or None when no Authorization header was sent.

    Raises:
        Problem: `unauthenticated`; the header is repeated, of another scheme, or too long.
    References: RFC 6750 section 2.1.
    """
    values = contexts.fields(connection.scope).get(b"authorization")
    if not values:
        return None
    scheme, _, token = values[0].decode("latin-1").partition(" ")
    if len(values) > 1 or scheme.lower() != "bearer" or not token.strip():
        raise unauthenticated("header `Authorization` must be sent once, as `Bearer <token>`")
    if len(token) > TOKEN_MAX_LENGTH:
        raise unauthenticated(f"the token must have at most {TOKEN_MAX_LENGTH} characters")
    return token.strip()


def unauthenticated(detail: str) -> errors.Problem:
    """Return the 401 problem with the challenge that RFC 6750 asks for."""
    challenge = 'Bearer realm="manifestry", error="invalid_token"'
    return errors.Problem(errors.UNAUTHENTICATED, detail, headers={"WWW-Authenticate": challenge})
