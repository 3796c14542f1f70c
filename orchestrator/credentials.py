"""Addresses without the credentials that they may carry: what is shown, logged and stored."""

from __future__ import annotations

import re
from urllib.parse import unquote

SECRET_FIELDS = re.compile(
    r"([?&][^=&]*(?:password|passwd|token|secret|user|key)[^=&]*=)[^&#]*", re.IGNORECASE
)


def masked(address: str) -> str:
    """``address`` without user, password and secret query fields, fit for messages, tags and files."""
    if address.startswith("sqlite:"):
        return address
    # Up to the last @, also beyond a slash: an unescaped password must not show either.
    return SECRET_FIELDS.sub(r"\1***", re.sub(r"//.*@", "//", address))


def scrubbed(text: str, address: str) -> str:
    """``text`` without the credentials that ``address`` carries: errors of HTTP libraries quote the address."""
    shown = masked(address)
    text = text.replace(address, shown)
    found = re.search(r"//(.*)@", address) if shown != address else None
    if found is None:
        return text
    text = text.replace(f"{found[1]}@", "")
    password = found[1].partition(":")[2]
    for secret in {password, unquote(password)}:
        # A shorter one is likely to be a word of the message too.
        text = text.replace(secret, "***") if len(secret) >= 4 else text
    return text
