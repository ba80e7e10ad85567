from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from service.commands.serve import serve
from service.errors import SettingsError
from service.keys import Keys, digest, new_key
from service.settings import Settings, default_data_dir, ignored_variables, load_settings


def test_flags_lie_over_the_environment_and_that_over_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("D3GZSL_PORT", "9000")
    monkeypatch.setenv("D3GZSL_BATCH_SIZE", "3")
    monkeypatch.setenv("D3GZSL_ALLOWED_HOSTS", "a.example, b.example")
    monkeypatch.setenv("D3GZSL_DEADLINE", "")

    settings = load_settings(port=9001, host=None)

    assert (settings.port, settings.batch_size, settings.host, settings.deadline) == (9001, 3, "127.0.0.1", 30)
    assert settings.allowed_hosts == ("a.example", "b.example")


def test_wrong_settings_are_named_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("D3GZSL_PORT", "many")

    with pytest.raises(SettingsError) as caught:
        load_settings(batch_size="0", log_level="loud")

    assert [p.pointer for p in caught.value.problems] == ["D3GZSL_PORT", "--batch-size", "--log-level"]


def test_what_kubernetes_sets_for_a_service_of_this_name_is_no_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("D3GZSL_SERVICE_PORT", "8000")
    monkeypatch.setenv("D3GZSL_PORT_8000_TCP_ADDR", "10.96.0.17")
    monkeypatch.setenv("D3GZSL_PORT", "tcp://10.96.0.17:8000")
    assert load_settings().port == 8000
    assert load_settings(port=9001).port == 9001
    (said,) = ignored_variables()
    assert said.startswith("D3GZSL_PORT=tcp://10.96.0.17:8000 is ignored: Kubernetes sets it")
    monkeypatch.setenv("D3GZSL_PORT", "udp://[fd00::1]:53")
    assert load_settings().port == 8000
    for wrong in ("tcp://", "http://10.96.0.17:8000", "8000/tcp"):
        monkeypatch.setenv("D3GZSL_PORT", wrong)
        assert ignored_variables() == []
        with pytest.raises(SettingsError, match="D3GZSL_PORT"):
            load_settings()


def test_a_queue_that_cannot_hold_one_request_is_refused() -> None:
    with pytest.raises(SettingsError, match="queue_size"):
        load_settings(queue_size=10, max_batch_images=11)


def test_every_setting_is_a_flag_of_serve() -> None:
    assert set(inspect.signature(serve).parameters) == set(Settings.model_fields)


def test_data_lies_in_the_users_data_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert default_data_dir() == tmp_path / "d3gzsl"
    monkeypatch.setenv("XDG_DATA_HOME", "relative")  # the specification says to ignore it
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_data_dir() == tmp_path / ".local" / "share" / "d3gzsl"


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.9.9.9"])
def test_without_keys_only_loopback_is_served(host: str) -> None:
    assert not Keys.from_settings(Settings(host=host))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_without_keys_other_addresses_are_refused_unless_allowed(host: str) -> None:
    with pytest.raises(SettingsError, match="ALLOW_ANONYMOUS"):
        Keys.from_settings(Settings(host=host))
    assert not Keys.from_settings(Settings(host=host, allow_anonymous=True))


def test_keys_come_from_settings_and_file(tmp_path: Path) -> None:
    asks, changes = new_key(), new_key()
    file = tmp_path / "keys"
    file.write_text(f"# ours\n\nadmin:{digest(changes)}  # Ada\n")

    keys = Keys.from_settings(Settings(host="0.0.0.0", keys=f"classify:{digest(asks)}", keys_file=file))

    assert [key and key.role for key in map(keys.find, (asks, changes, new_key(), ""))] == [
        "classify",
        "admin",
        None,
        None,
    ]


def test_keys_stay_needed_where_anonymous_use_is_allowed_too() -> None:
    assert Keys.from_settings(Settings(keys=f"admin:{digest('k')}", allow_anonymous=True))


def test_broken_keys_are_named(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("admin:123\n")
    with pytest.raises(SettingsError) as caught:
        Keys.from_settings(Settings(keys="root:" + "0" * 64, keys_file=file))
    assert [p.pointer for p in caught.value.problems] == ["D3GZSL_KEYS, key 1", f"{file}, line 1"]
    with pytest.raises(SettingsError, match="cannot be read"):
        Keys.from_settings(Settings(keys_file=tmp_path / "none"))
