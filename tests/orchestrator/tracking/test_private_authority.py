"""An MLflow server whose certificate comes from a private authority."""

from __future__ import annotations

import datetime
import http.server
import ipaddress
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from orchestrator.errors import PreflightError
from orchestrator.tracking.address import CERTIFICATES, check_tracking


class Version(http.server.BaseHTTPRequestHandler):
    """Answers as MLflow does on /version."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"3.0.0")

    def log_message(self, *_args: object) -> None:
        """Say nothing."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Address of a server on loopback, and the certificate that vouches for it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority of a test")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    pem, secret = tmp_path / "ca.pem", tmp_path / "key.pem"
    pem.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, secret)
    served = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Version)
    served.socket = context.wrap_socket(served.socket, server_side=True)
    thread = threading.Thread(target=served.serve_forever)
    thread.start()
    try:
        yield f"https://127.0.0.1:{served.server_port}", pem
    finally:
        served.shutdown()
        thread.join()
        served.server_close()


def test_each_variable_of_the_field_names_the_authority(
    server: tuple[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    address, pem = server
    for key in CERTIFICATES:
        monkeypatch.delenv(key, raising=False)
    with pytest.raises(
        PreflightError, match="name the file of your authority's certificate in REQUESTS_CA_BUNDLE"
    ):
        check_tracking(address)
    for key in CERTIFICATES:
        monkeypatch.setenv(key, str(pem))
        check_tracking(address)
        monkeypatch.setenv(key, str(tmp_path / "none.pem"))
        with pytest.raises(
            PreflightError, match=rf"{key}: must name a file or folder of certificates .* got .*none"
        ):
            check_tracking(address)
        monkeypatch.delenv(key)
