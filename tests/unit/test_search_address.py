"""Addresses of databases: what PostgreSQL's own programs understand is understood."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from pantheon.compress.search.address import SILENT, address_of, masked
from pantheon.errors import ConfigError


def test_an_address_without_a_driver_is_reached_by_the_one_that_is_tested() -> None:
    for scheme in ("postgresql", "postgres"):
        found = address_of(f"{scheme}://me:a%40%7Bb%7D@db.lan:5433/search")
        assert found.url == "postgresql+pg8000://me:a%40%7Bb%7D@db.lan:5433/search"
        assert found.arguments == {"timeout": SILENT, "ssl_context": None}


@pytest.mark.parametrize("url", ["postgresql+psycopg://me@host/db?sslmode=require", "mysql://h/d"])
def test_a_driver_that_is_named_is_left_alone(url: str) -> None:
    assert address_of(url).url == url
    assert address_of(url).arguments == {}


def test_sockets_are_found_by_their_folder() -> None:
    found = address_of("postgresql://me@/search?host=/run/here&port=5433")
    assert found.url == "postgresql+pg8000://me@/search"
    assert found.arguments["unix_sock"] == "/run/here/.s.PGSQL.5433"
    assert address_of("postgresql://me@/search").arguments["unix_sock"].endswith(".s.PGSQL.5432")


def test_tls_is_asked_for_in_libpqs_words() -> None:
    url = "postgresql://me@host/db?sslmode="
    assert address_of(f"{url}disable").arguments["ssl_context"] is False
    assert address_of(f"{url}prefer").arguments["ssl_context"] is None
    assert address_of(f"{url}require").arguments["ssl_context"] is True
    for mode, name in (("verify-ca", False), ("verify-full", True)):
        context = address_of(f"{url}{mode}").arguments["ssl_context"]
        assert context.verify_mode == ssl.CERT_REQUIRED
        assert context.check_hostname is name


def test_addresses_that_cannot_be(tmp_path: Path) -> None:
    for url, said in {
        "me:secret@host": "is no address; expected one as in sqlite:///search.db",
        "postgresql://me:secret@host/db?sslmode=on": "has sslmode 'on'.*expected one of disable",
        "postgresql://me:secret@host/db?sslmod=require": "says sslmod, .*'sslmode'",
        "postgresql://host/db": "names no user",
        f"postgresql://me:secret@h/d?sslmode=verify-ca&sslrootcert={tmp_path}/no": "cannot be read",
    }.items():
        with pytest.raises(ConfigError, match=said) as told:
            address_of(url)
        assert "secret" not in str(told.value) or "://" not in url


def test_passwords_are_masked_whatever_they_hold() -> None:
    assert (
        masked("postgresql://me:a@b/c@host/db and more") == "postgresql://me:***@host/db and more"
    )
    assert masked("postgresql://host/db?user=me&password=secret&x=1").endswith("password=***&x=1")
    assert masked("sqlite:////tmp/a@b/search.db") == "sqlite:////tmp/a@b/search.db"
