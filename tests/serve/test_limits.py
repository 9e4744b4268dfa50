"""Limits: the allowed values, the connections that open files allow, and which addresses are one client."""

from dataclasses import fields

import pytest

from notellm.errors import ConfigError
from notellm.serve import limits as module
from notellm.serve.limits import Limits, open_files, origin


@pytest.mark.parametrize("name", [field.name for field in fields(Limits)])
def test_limits_must_be_above_nothing(name):
    for value in (0, -1, float("nan")):
        with pytest.raises(ConfigError, match=f"{name} is .*; it must be above 0"):
            Limits(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("files", "most"), [(100, 16), (256, 128), (300, 172), (1_024, 768), (20_000, 4_096), (None, 4_096)]
)
def test_connections_leave_a_quarter_of_the_open_files(monkeypatch, files, most):
    monkeypatch.setattr(module, "open_files", lambda: files)
    assert Limits().most_connections == most
    assert Limits().most_per_address == most // 2
    assert Limits(per_address=5).most_per_address == 5
    assert Limits(per_address=1 << 20).most_per_address == most
    assert Limits(connections=10).most_connections == 10
    assert Limits(connections=1).most_per_address == 1


def test_more_connections_than_files_can_be_open_are_refused(monkeypatch):
    monkeypatch.setattr(module, "open_files", lambda: 1_024)
    assert Limits(connections=768).most_connections == 768
    with pytest.raises(ConfigError, match=r"connections is 769, .* 1,024 files, .* at most 768, .*ulimit -n"):
        Limits(connections=769)
    monkeypatch.setattr(module, "open_files", lambda: None)
    assert Limits(connections=1 << 20).most_connections == 1 << 20


def test_the_number_of_open_files_is_that_of_the_process(monkeypatch):
    resource = pytest.importorskip("resource")
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert open_files() == (None if soft == resource.RLIM_INFINITY else soft)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert open_files() is None
    monkeypatch.setattr(module, "resource", None)
    assert open_files() is None


def test_a_client_is_an_address_or_a_network_of_ipv6():
    assert origin("192.0.2.7") == origin("::ffff:192.0.2.7") == "192.0.2.7"
    assert origin("192.0.2.8") != origin("192.0.2.7")
    assert origin("2001:db8:1:2::1") == origin("2001:db8:1:2:ffff::9") == "2001:db8:1:2::"
    assert origin("2001:db8:1:3::1") != origin("2001:db8:1:2::1")
    assert origin("fe80::1%eth0") == "fe80::"
    assert origin("/run/service.socket") == "/run/service.socket"
    assert origin("") == ""
