"""Which URLs of others the service may call: none that leads into the network that it stands in.

A name may mean one address when it is checked and another when it is called. So a name is resolved, every address checked, and
the connection made to a checked address (`worker.maintenance.webhook_sending`).
"""

import ipaddress
import socket
from collections.abc import Sequence

import httpx

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_FIRST_FREE_PORT = 1024
"""Below it are the well-known services, of which only those of the web are called."""
_OTHERS = tuple(
    ipaddress.ip_network(network)
    for network in (
        "192.0.0.0/24",  # the protocols' own
        "192.88.99.0/24",  # relays of 6to4
        "64:ff9b::/96",  # translated to any IPv4 address
        "64:ff9b:1::/48",
        "2001::/23",  # Teredo and others of the protocols
        "2002::/16",  # 6to4: any IPv4 address
    )
)
"""What counts as global for Python, or did in some of its versions, and leads elsewhere."""


class AddressRefused(Exception):
    """A URL that the service does not call; the message says why."""


def check_url(url: str, *, allow_private: bool) -> httpx.URL:
    """Return a URL in the form in which it is called, if its form is allowed.

    Parameters
    ----------
    url
        As it came.
    allow_private
        Allow ``http``, and names that mean private addresses.

    Raises
    ------
    AddressRefused
        If it is not.
    """
    schemes = ("https", "http") if allow_private else ("https",)
    expected = " or ".join(f"{scheme}://" for scheme in schemes)
    if any(character.isspace() or not character.isprintable() or character == "\\" for character in url):
        raise AddressRefused("expected a URL without blanks, control characters or backslashes")
    try:
        parsed = httpx.URL(url)
        port = parsed.port
    except (httpx.InvalidURL, ValueError) as error:
        raise AddressRefused(f"expected a URL; it can't be read: {error}") from error
    if parsed.scheme not in schemes or not parsed.host:
        came = f"{parsed.scheme}://{parsed.host}" if parsed.host else repr(url)
        raise AddressRefused(f"expected {expected} and the name of a host; got {came}")
    if parsed.userinfo:
        raise AddressRefused("expected no user or password in the URL: what is sent is signed instead")
    if parsed.fragment:
        raise AddressRefused("expected no fragment (#…) in the URL: it is never sent")
    web_ports = {"https": 443, "http": 80}
    if port is not None and port != web_ports[parsed.scheme] and not _FIRST_FREE_PORT <= port < 2**16:
        raise AddressRefused(
            f"expected the port {web_ports[parsed.scheme]}, or one from {_FIRST_FREE_PORT} on; got {port}"
        )
    return parsed


def resolve(host: str, port: int, *, allow_private: bool) -> Sequence[str]:
    """Addresses of a host, all of which may be called.

    Raises
    ------
    AddressRefused
        If it has none, or one that may not be called.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise AddressRefused(f"the name {host!r} has no address: {error}") from error
    addresses = list(dict.fromkeys(str(one[4][0]) for one in found))
    for address in addresses:
        if not allow_private and not is_public(ipaddress.ip_address(address)):
            raise AddressRefused(f"the address {address} of {host!r} is not of the public network")
    return addresses


def is_public(address: IpAddress) -> bool:
    """Whether an address is a single host's of the public network."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if address.is_site_local:
            return False
    if any(address in network for network in _OTHERS if network.version == address.version):
        return False
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)
