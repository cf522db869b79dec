"""The key pair that signs a stack's access tokens, as on a hosted project (ES256).

In: a private key in PEM. Out: signed tokens, and the public key as a JSON Web Key (RFC 7517), whose ``kid``
is its thumbprint (RFC 7638), so that a library such as ``supabase-js`` can verify tokens without the server.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import (
        EllipticCurvePrivateKey,
        EllipticCurvePublicKey,
    )


@dataclass(frozen=True)
class SigningKey:
    """A private P-256 key."""

    pem: str = field(repr=False)

    @classmethod
    def make(cls) -> SigningKey:
        """Create a new key from the operating system's randomness."""
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return cls(pem.decode())

    @staticmethod
    @lru_cache(maxsize=8)
    def of(pem: str) -> SigningKey:
        """Return the same object for the same key, as reading a key takes longer than signing with it."""
        return SigningKey(pem)

    @cached_property
    def _private(self) -> EllipticCurvePrivateKey:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        key = serialization.load_pem_private_key(self.pem.encode(), None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ValueError("the signing key is not an elliptic curve key")
        return key

    @cached_property
    def public(self) -> EllipticCurvePublicKey:
        return self._private.public_key()

    @cached_property
    def jwk(self) -> dict[str, Any]:
        """Return the public key as a JSON Web Key."""
        numbers = self.public.public_numbers()
        point = {"crv": "P-256", "kty": "EC", "x": _base64(numbers.x), "y": _base64(numbers.y)}
        text = json.dumps(point, separators=(",", ":"), sort_keys=True)
        kid = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        more = {"kid": kid, "alg": "ES256", "use": "sig", "key_ops": ["verify"], "ext": True}
        return {**point, **more}

    def sign(self, claims: Mapping[str, Any]) -> str:
        """Return a token with these claims, and this key's ``kid`` in its header."""
        import jwt

        return jwt.encode(
            dict(claims), self._private, algorithm="ES256", headers={"kid": self.jwk["kid"]}
        )


def _base64(number: int) -> str:
    return base64.urlsafe_b64encode(number.to_bytes(32, "big")).rstrip(b"=").decode()
