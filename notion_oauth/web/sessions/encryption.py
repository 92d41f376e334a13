"""The encryption of cookies, with keys that are derived from the session keys, one for each purpose."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Sequence

from cryptography.fernet import Fernet, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pydantic import SecretStr

PENDING = b"notion-oauth pending authorization"
COMPLETED = b"notion-oauth completed authorization"
SESSION = b"notion-oauth session"
FORM = b"notion-oauth form"


def cookie_encryption(keys: Sequence[SecretStr], purpose: bytes) -> MultiFernet:
    """Encrypt with the first key; decrypt with all of them."""
    return MultiFernet([Fernet(urlsafe_b64encode(derive_key(key, purpose))) for key in keys])


def derive_key(key: SecretStr, purpose: bytes) -> bytes:
    """Return the 32 bytes for a purpose: what is made for one purpose is of no use for another."""
    return HKDF(SHA256(), 32, salt=None, info=purpose).derive(key.get_secret_value().encode())
