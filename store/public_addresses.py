"""Which URLs of users the service may call: none that leads into its own network.

A name may resolve to one address when it is checked and to another when it is called. So the service resolves the name, checks
every address, and connects to a checked address (`worker.maintenance.webhook_sending`).
"""

import ipaddress
import socket
from collections.abc import Sequence

import httpx

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_FIRST_FREE_PORT = 1024
"""Ports below belong to well-known services. Of these, only those of the web may be called."""
_OTHERS = tuple(
    ipaddress.ip_network(network)
    for network in (
        "192.0.0.0/24",  # of the protocols themselves
        "192.88.99.0/24",  # relays of 6to4
        "64:ff9b::/96",  # translated to any IPv4 address
        "64:ff9b:1::/48",
        "2001::/23",  # Teredo and others of the protocols
        "2002::/16",  # 6to4: any IPv4 address
    )
)
"""Networks that Python, in some versions, counts as global although they lead elsewhere."""


class AddressRefused(Exception):
    """The service does not call this URL. The message says why."""


def check_url(url: str, *, allow_private: bool) -> httpx.URL:
    """Check the form of a URL, and return it as it will be called.

    Parameters
    ----------
    url
        As the user gave it.
    allow_private
        Whether ``http`` and private addresses are allowed.

    Raises
    ------
    AddressRefused
        If the form is not allowed.
    """
    schemes = ("https", "http") if allow_private else ("https",)
    expected = " or ".join(f"{scheme}://" for scheme in schemes)
    if any(character.isspace() or not character.isprintable() or character == "\\" for character in url):
        raise AddressRefused("expected a URL without blanks, control characters or backslashes")
    try:
        parsed = httpx.URL(url)
        port, host = parsed.port, parsed.host  # the host is decoded when it is read, and may be too long
    except (httpx.InvalidURL, ValueError) as error:
        raise AddressRefused(f"expected a URL; it can't be read: {error}") from error
    if parsed.scheme not in schemes or not host:
        came = f"{parsed.scheme}://{host}" if host else repr(url)
        raise AddressRefused(f"expected {expected} and the name of a host; got {came}")
    if parsed.userinfo:
        raise AddressRefused("expected no user or password in the URL: messages are signed instead")
    if parsed.fragment:
        raise AddressRefused("expected no fragment (#…) in the URL: it is never sent")
    web_ports = {"https": 443, "http": 80}
    if port is not None and port != web_ports[parsed.scheme] and not _FIRST_FREE_PORT <= port < 2**16:
        raise AddressRefused(
            f"expected the port {web_ports[parsed.scheme]}, or one from {_FIRST_FREE_PORT} on; got {port}"
        )
    return parsed


def resolve(host: str, port: int, *, allow_private: bool) -> Sequence[str]:
    """Return the addresses of a host. All of them may be called.

    Raises
    ------
    AddressRefused
        If the host has no address, or one that may not be called.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise AddressRefused(f"the name {host!r} has no address: {error}") from error
    addresses = list(dict.fromkeys(str(one[4][0]) for one in found))
    for address in addresses:
        if not allow_private and not is_public(ipaddress.ip_address(address)):
            raise AddressRefused(f"the address {address} of {host!r} is not in the public network")
    return addresses


def is_public(address: IpAddress) -> bool:
    """Return whether an address is that of a single host in the public network."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if address.is_site_local:
            return False
    if any(address in network for network in _OTHERS if network.version == address.version):
        return False
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)
