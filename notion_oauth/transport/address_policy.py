"""Which addresses a client may talk to when servers name each other (server-side request forgery)."""

from __future__ import annotations

from urllib.parse import urlsplit

from notion_oauth.errors import MetadataError, NetworkError
from notion_oauth.transport.addresses import PRIVATE_KINDS, Address, Kind, kind_of, literal_address
from notion_oauth.transport.proxies import port_of

ALLOW = "NOTION_OAUTH_ALLOW_PRIVATE_ADDRESSES"
_HINT = f"If that server is yours and is meant to be there, set {ALLOW}=true."


class AddressPolicy:
    """The addresses that may be connected to. Metadata is somebody else's text, and must open no doors at home.

    - Public addresses, always.
    - The server that the person has set (the same host and port) may be on this machine, on a private network
      (RFC 1918, RFC 4193, 100.64.0.0/10), or behind a stand-in address (198.18.0.0/15) too.
    - Other servers may be where it is: on this machine when it is on this machine, on a private network when it is on
      one, and no mixture. Where it is, is what its URL says when that is an address or localhost; for a name, it is the
      address at which it was met with a valid certificate, never what DNS says alone: whoever owns a name can let it
      lead anywhere.
    - Link-local addresses, those of cloud metadata services, unspecified, multicast, reserved and wrapping ones (6to4,
      Teredo, IPv4-compatible): never, not even for the server that was set.
    - `allow_private` opens this machine and private networks to every server; what is never allowed stays so.
    """

    def __init__(self, server_url: str | None = None, *, allow_private: bool = False) -> None:
        self.server_url = server_url
        self._own = (urlsplit(server_url).hostname or "", port_of(server_url)) if server_url else None
        address = literal_address(self._own[0]) if self._own else None
        self._named = self._own is not None and address is None
        self._open = _private_kind(address)
        if allow_private:
            self._open = PRIVATE_KINDS

    def is_configured_server(self, host: str, port: int) -> bool:
        """Whether this is the server that the person has set."""
        return self._own == (host, port)

    def allows(self, address: Address, *, own: bool) -> bool:
        """Whether a connection to this address may be opened; `own` says that it is for the server that was set."""
        kind = kind_of(address)
        return kind is Kind.PUBLIC or (kind in PRIVATE_KINDS and (own or kind in self._open))

    def could_be_confirmed(self, address: Address) -> bool:
        """Whether meeting the server that was set could make this address an allowed one."""
        return self._named and bool(_private_kind(address))

    def confirm_private(self, address: Address) -> None:
        """The server that was set has shown its certificate at this address."""
        self._open |= _private_kind(address)

    def check_literal(self, host: str, port: int) -> None:
        """Raise MetadataError where a host is written as an address that is not allowed. Makes no look-up."""
        address = literal_address(host)
        if address is not None and not self.allows(address, own=self.is_configured_server(host, port)):
            raise self.refusal(host, address)

    def refusal(self, host: str, address: Address) -> MetadataError | NetworkError:
        """Why nothing was sent. A name may lead elsewhere in a moment: then that is a passing failure."""
        kind = kind_of(address)
        hint = _HINT if kind in PRIVATE_KINDS else None
        if literal_address(host) is not None:
            return MetadataError(f"{host} is {kind.value}; nothing was sent.", hint=hint)
        return NetworkError(f"{host} leads to {kind.value} ({address}); nothing was sent.", hint=hint)


def _private_kind(address: Address | None) -> frozenset[Kind]:
    """What lies at the address, where a server of one's own can be there."""
    return PRIVATE_KINDS & {kind_of(address)} if address is not None else frozenset()
