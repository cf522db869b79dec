"""The HTTP client of a project: which servers it trusts, and its cost for a process."""

from __future__ import annotations

import ssl
from pathlib import Path

import certifi
import httpx
import pytest

from notebook_rt.net.client import new_client, timeouts


@pytest.fixture(autouse=True)
def _every_authority(monkeypatch: pytest.MonkeyPatch) -> None:
    """That the other tests do without, and a machine may name otherwise."""
    monkeypatch.delenv("SSL_CERT_FILE")
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)


def trusted_by(client: httpx.AsyncClient) -> ssl.SSLContext:
    pool = client._transport._pool  # type: ignore[attr-defined]  # what httpx was told is nowhere else
    context: ssl.SSLContext = pool._ssl_context
    return context


def client_of(url: str) -> httpx.AsyncClient:
    return new_client(url, timeouts(5.0, 5.0), 1000)


def test_certificates_are_read_once_a_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = client_of("https://one.supabase.co"), client_of("https://two.supabase.co")
    assert trusted_by(one) is trusted_by(two)
    assert trusted_by(one).cert_store_stats()["x509_ca"] > 50
    assert trusted_by(one).verify_mode is ssl.CERT_REQUIRED
    assert trusted_by(one).check_hostname

    only = tmp_path / "only.pem"
    only.write_text("".join(certifi.contents().partition("-----END CERTIFICATE-----")[:2]))
    monkeypatch.setenv("SSL_CERT_FILE", str(only))  # as where a company reads along
    three = client_of("https://one.supabase.co")
    assert trusted_by(three).cert_store_stats()["x509_ca"] == 1


@pytest.mark.parametrize("url", ["http://127.0.0.1:54321", "http://localhost:54321"])
def test_a_stack_on_this_machine_needs_no_certificates_and_none_is_accepted(url: str) -> None:
    context = trusted_by(client_of(url))
    assert context.cert_store_stats()["x509_ca"] == 0
    assert context.verify_mode is ssl.CERT_REQUIRED


@pytest.mark.parametrize("url", ["https://127.0.0.1:54321", "http://project.example"])
def test_any_other_address_is_held_to_the_authorities(url: str) -> None:
    assert trusted_by(client_of(url)).cert_store_stats()["x509_ca"] > 50
