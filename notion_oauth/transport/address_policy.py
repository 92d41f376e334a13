"""Which addresses may be connected to, because servers name other servers (server-side request forgery)."""

from __future__ import annotations

from urllib.parse import urlsplit

from notion_oauth.errors import MetadataError, NetworkError
from notion_oauth.transport.addresses import PRIVATE_KINDS, Address, Kind, kind_of, literal_address
from notion_oauth.transport.proxies import port_of

ALLOW = "NOTION_OAUTH_ALLOW_PRIVATE_ADDRESSES"
_HINT = f"If that server is yours and belongs there, set {ALLOW}=true."


class AddressPolicy:
    """The addresses that may be connected to. Metadata is untrusted: it must not direct requests to private addresses.

    - Public addresses are always allowed.
    - The configured server (same host and port) may also be on this machine, on a private network (RFC 1918,
      RFC 4193, 100.64.0.0/10), or a benchmarking address (198.18.0.0/15), as some proxies use.
    - Other servers may be at the same kind of address as the configured server: on this machine if it is on this
      machine, on a private network if it is on one. The kind follows from its URL if that contains an address or
      localhost. For a name it follows from the address that presented a valid certificate, never from DNS alone:
      the owner of a name can point it at any address.
    - Link-local, cloud metadata, unspecified, multicast, reserved and embedding addresses (6to4, Teredo,
      IPv4-compatible) are never allowed, not even for the configured server.
    - `allow_private` allows every server on this machine and on private networks; the rule above still applies.
    """

    def __init__(self, server_url: str | None = None, *, allow_private: bool = False) -> None:
        self.server_url = server_url
        self._configured = (urlsplit(server_url).hostname or "", port_of(server_url)) if server_url else None
        address = literal_address(self._configured[0]) if self._configured else None
        self._has_name = self._configured is not None and address is None
        self._allowed_kinds = PRIVATE_KINDS if allow_private else _private_kind(address)

    def is_configured_server(self, host: str, port: int) -> bool:
        """Return whether this is the host and port of the configured server."""
        return self._configured == (host, port)

    def allows(self, address: Address, *, configured: bool) -> bool:
        """Whether this address may be connected to; `configured` if the connection is for the configured server."""
        kind = kind_of(address)
        return kind is Kind.PUBLIC or (kind in PRIVATE_KINDS and (configured or kind in self._allowed_kinds))

    def could_be_confirmed(self, address: Address) -> bool:
        """Return whether this address could become allowed by checking the certificate of the configured server."""
        return self._has_name and bool(_private_kind(address))

    def confirm_private(self, address: Address) -> None:
        """Record that the configured server presented a valid certificate at this address."""
        self._allowed_kinds |= _private_kind(address)

    def check_literal(self, host: str, port: int) -> None:
        """Raise MetadataError if the host is an address that is not allowed. Does not query DNS."""
        address = literal_address(host)
        if address is not None and not self.allows(address, configured=self.is_configured_server(host, port)):
            raise self.refusal(host, address)

    def refusal(self, host: str, address: Address) -> MetadataError | NetworkError:
        """Why nothing was sent. It is transient for a name, because its DNS records can change."""
        kind = kind_of(address)
        hint = _HINT if kind in PRIVATE_KINDS else None
        if literal_address(host) is not None:
            return MetadataError(f"{host} is {kind.value}; nothing was sent.", hint=hint)
        return NetworkError(f"{host} resolves to {kind.value} ({address}); nothing was sent.", hint=hint)


def _private_kind(address: Address | None) -> frozenset[Kind]:
    """Return the kind of the address, if it is one of PRIVATE_KINDS."""
    return PRIVATE_KINDS & {kind_of(address)} if address is not None else frozenset()
