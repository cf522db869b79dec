"""Hash passwords with salted scrypt."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets

_COST = {"n": 2**14, "r": 8, "p": 1}  # 16 MB and some 50 ms for each try


async def hashed(password: str) -> str:
    salt = secrets.token_bytes(16)
    digest = await asyncio.to_thread(_scrypt, password, salt)
    return f"scrypt${salt.hex()}${digest.hex()}"


async def matches(password: str, hash: str | None) -> bool:
    if hash is None or not hash.startswith("scrypt$"):
        return False
    _, salt, digest = hash.split("$")
    found = await asyncio.to_thread(_scrypt, password, bytes.fromhex(salt))
    return hmac.compare_digest(found.hex(), digest)


def _scrypt(password: str, salt: bytes) -> bytes:
    return hashlib.scrypt(password.encode(errors="surrogatepass"), salt=salt, **_COST)
