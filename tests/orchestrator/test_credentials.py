"""Credentials are in no message, however an address or an error spells them."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.credentials import masked, scrubbed

PASSWORDS = st.text("XYZ@:/%?#&= ", min_size=4, max_size=10)


@settings(max_examples=80, deadline=None)
@given(PASSWORDS)
def test_no_spelling_of_a_password_passes(password: str) -> None:
    encoded = quote(password, safe="")
    address = f"http://someone:{encoded}@host:5000/path"
    assert masked(address) == "http://host:5000/path"
    for quoted in (
        address,
        f"//someone:{encoded}@host:5000",
        f"bad credentials {password}",
        f"bad {encoded}.",
    ):
        assert password not in scrubbed(quoted, address)
        assert encoded not in scrubbed(quoted, address)


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("http://host/x", "http://host/x"),
        ("http://token@host", "http://host"),
        (
            "postgresql://h/db?sslpassword=a&USER=b&mode=c#d",
            "postgresql://h/db?sslpassword=***&USER=***&mode=c#d",
        ),
        ("http://h/x?api_key=1", "http://h/x?api_key=***"),
        ("sqlite:///a//b@c?token=x", "sqlite:///a//b@c?token=x"),
        ("", ""),
    ],
)
def test_what_is_left_of_an_address(address: str, shown: str) -> None:
    assert masked(address) == shown
    assert masked(shown) == shown


def test_a_text_loses_nothing_else() -> None:
    assert scrubbed("host refused", "http://host") == "host refused"
    assert scrubbed("the word abc stays", "http://u:abc@host") == "the word abc stays"
    assert scrubbed("at http://u:abc@host", "http://u:abc@host") == "at http://host"
    assert scrubbed("db?password=x!", "db?password=x!") == "db?password=***"
