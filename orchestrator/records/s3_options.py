"""What an S3 address and the environment say to pyarrow's file system."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

QUERY = ("scheme", "region", "endpoint_override")


def s3_options(
    user: str | None, password: str | None, query: Mapping[str, str], environ: Mapping[str, str]
) -> dict[str, Any]:
    """Arguments of pyarrow's file system: the address first, then the environment."""
    endpoint = environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL") or ""
    scheme, _, host = endpoint.rpartition("://")
    options: dict[str, Any] = {
        "region": query.get("region")
        or environ.get("AWS_REGION")
        or environ.get("AWS_DEFAULT_REGION")
        or "us-east-1"
    }
    host = query.get("endpoint_override", host.rstrip("/"))
    if host:
        options |= {"endpoint_override": host.rpartition("://")[2]}
        scheme = host.rpartition("://")[0] or scheme
    options["scheme"] = query.get("scheme") or scheme or "https"
    key, secret = user or environ.get("AWS_ACCESS_KEY_ID"), password or environ.get("AWS_SECRET_ACCESS_KEY")
    if key and secret:
        options |= {"access_key": unquote(key), "secret_key": unquote(secret)} if user else {
            "access_key": key, "secret_key": secret, "session_token": environ.get("AWS_SESSION_TOKEN"),
        }  # fmt: skip
    return options
