"""Which addresses are used: the endpoint, which is given credentials, and the places where the server puts pictures."""

from __future__ import annotations

import ipaddress
import re
import socket
from urllib.parse import urlsplit

_THIS_MACHINE = frozenset({"127.0.0.1", "localhost", "[::1]"})
_ORIGIN = re.compile(r"(https?)://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")


def is_this_machine(address: str) -> bool:
    """Whether a web address, with or without a path, is on this machine."""
    found = _ORIGIN.match(address)
    return found is not None and found[2].casefold() in _THIS_MACHINE and origin(address) == found[0]


def endpoint_problem(endpoint: str) -> str:
    """Why credentials cannot be sent to this address; "" if they can."""
    found = _ORIGIN.fullmatch(endpoint)
    if found and (found[1] == "https" or is_this_machine(endpoint)):
        return ""
    return "must be https://NAME without a path or a final /, or http:// on this machine"


def picture_problem(url: str, endpoint: str, private: bool) -> str:
    """Why a picture's address cannot be used; "" if it can. A name is resolved, and must lead to public addresses only.

    If a name cannot be resolved here, it is left to the request, which a proxy may be able to send. ``private`` allows
    every web address. If the endpoint is on this machine, pictures may be, too.
    """
    found = _ORIGIN.match(url)
    if not found or origin(url) != found[0]:
        return "it is no web address"
    if private or (is_this_machine(endpoint) and is_this_machine(url)):
        return ""
    if found[1] != "https":
        return "it is not https"
    return "" if _is_public(found[2].strip("[]")) else "it is not on the public internet"


def origin(url: str) -> str:
    """The start of an address, up to its path; "" if it has none."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    return f"{parts.scheme}://{parts.netloc}" if parts.netloc else ""


def _is_public(host: str) -> bool:
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None)}
    except OSError:
        return True
    except UnicodeError:  # a name that cannot exist
        return False
    addresses = [ipaddress.ip_address(one) for one in found]
    return all(address.is_global and not address.is_multicast for address in addresses)
