"""One S3 server per test file, and an address below its bucket for each test."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

from tests.fakes.servers import BUCKET, s3_server


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with s3_server() as address:
        yield address


@pytest.fixture
def address() -> str:
    return f"s3://{BUCKET}/{secrets.token_hex(4)}"
