"""Addresses without the credentials that they may carry, for screens, logs and files."""

from __future__ import annotations

import re
from urllib.parse import unquote

# Servers and databases take secrets as query fields too, each under a name of its own.
SECRET_FIELDS = re.compile(
    r"([?&][^=&]*(?:password|passwd|token|secret|user|key)[^=&]*=)[^&#]*", re.IGNORECASE
)


def masked(address: str) -> str:
    """``address`` without user, password and secret query fields, fit for messages, tags and files."""
    # A file's path has no user, and an @ in it is part of a name.
    if address.startswith("sqlite:"):
        return address
    # Up to the last @, also beyond a slash: an unescaped password must not show either.
    return SECRET_FIELDS.sub(r"\1***", re.sub(r"//.*@", "//", address))


def scrubbed(text: str, address: str) -> str:
    """``text`` without the credentials of ``address``, which errors of HTTP libraries quote."""
    shown = masked(address)
    text = text.replace(address, shown)
    userinfo = re.search(r"//(.*)@", address) if shown != address else None
    if userinfo is None:
        return text
    # A library may quote a part of the address only, such as the host with the credentials before it.
    text = text.replace(f"{userinfo[1]}@", "")
    password = userinfo[1].partition(":")[2]
    # The address has it percent-encoded, a library may quote it decoded.
    for secret in {password, unquote(password)}:
        # A shorter one is likely to be a word of the message too.
        text = text.replace(secret, "***") if len(secret) >= 4 else text
    return text
