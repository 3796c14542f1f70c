"""Address of a cluster: shown without credentials, and reachable or refused within seconds."""

from __future__ import annotations

import socket

import pytest

from orchestrator.cluster import address as module
from orchestrator.cluster.address import (
    Cluster,
    check_reachable,
    driver_address,
    job_server,
    on_loopback_only,
)
from orchestrator.errors import PreflightError, UsageError


def test_a_cluster_says_where_it_is() -> None:
    assert (Cluster().is_private, Cluster().shown, str(Cluster())) == (True, "", "on this machine")
    running = Cluster("head:6379")
    assert (running.is_private, str(running)) == (False, "on the Ray cluster at head:6379")


@pytest.mark.parametrize("address", ["a-b.c_d:1", "10.0.0.1:65535", "[fe80::1]:6379", "auto"])
def test_addresses_of_a_head_are_taken_with_blanks_around_them(address: str) -> None:
    assert (
        driver_address(f" {address}\n", {}) == driver_address(None, {"RAY_ADDRESS": f"{address} "}) == address
    )


@pytest.mark.parametrize("address", ["head:", ":6379", "head:six", "head:123456", "a b:1", "fe80::1:6379x"])
def test_other_forms_name_where_they_were_given(address: str) -> None:
    with pytest.raises(UsageError, match=r"^RAY_ADDRESS: must be HOST:PORT of the cluster's head"):
        driver_address(None, {"RAY_ADDRESS": address})
    with pytest.raises(
        UsageError, match=r"^--address: must be HOST:PORT .* got .*; correct it, or leave it out"
    ):
        driver_address(address, {"RAY_ADDRESS": "head:6379"})


def test_a_private_ray_by_flag_is_named_with_blanks_around_it_too() -> None:
    assert driver_address("local ", {}) == ""


def test_the_job_server_skips_variables_that_are_blank() -> None:
    assert job_server(None, {"RAY_API_SERVER_ADDRESS": " ", "RAY_ADDRESS": " https://b:1/ "}) == "https://b:1"
    with pytest.raises(UsageError, match=r"^--address: with --submit it must be the job server"):
        job_server("", {"RAY_ADDRESS": "http://b:1"})


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (TimeoutError("timed out"), "timed out"),
        (ConnectionRefusedError(111, "Connection refused"), "Connection refused"),
    ],
)
def test_a_head_that_does_not_answer_is_refused_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, error: OSError, reason: str
) -> None:
    called: list[tuple[str, int]] = []

    def connect(address: tuple[str, int], timeout: float) -> None:
        assert timeout <= 3
        called.append(address)
        raise error

    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(PreflightError) as refused:
        check_reachable("[::1]:6379")
    assert (
        str(refused.value)
        == f"Ray cluster at [::1]:6379: must answer, got: {reason}; start it, or check the address"
    )
    assert called == [("::1", 6379)]


def test_without_a_route_outward_there_is_only_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    class Nowhere(socket.socket):
        def connect(self, _: object) -> None:
            raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(module.socket, "socket", Nowhere)
    assert on_loopback_only("[::1]:6379")
    assert not on_loopback_only("10.0.0.1:6379")
    assert not on_loopback_only("auto")
