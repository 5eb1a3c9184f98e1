"""Settings: read once, checked together, secrets never shown."""

import pytest
from pydantic import ValidationError

from manifestry import settings
from manifestry.handlers import process

SECTIONS = [
    settings.StoreSettings,
    settings.ClusterSettings,
    settings.OperatorSettings,
    settings.ApiSettings,
]


@pytest.mark.parametrize("section", SECTIONS)
def test_an_empty_environment_is_a_working_configuration(section: type[settings._Section]) -> None:
    assert section.from_mapping({})
    assert section.from_mapping({"MANIFESTRY_LOG_LEVEL": "", "HOME": "/root"})


def test_variables_are_read_by_their_names() -> None:
    found = settings.OperatorSettings.from_mapping(
        {"MANIFESTRY_WORKERS": " 4 ", "MANIFESTRY_LEADER_ELECTION": "false"}
    )
    assert (found.workers, found.leader_election) == (4, False)


def test_all_bad_variables_are_reported_at_once_without_their_values() -> None:
    env = {"MANIFESTRY_WORKERS": "many-sensitive", "MANIFESTRY_RESYNC_SECONDS": "0"}
    with pytest.raises(settings.SettingsError) as refused:
        settings.OperatorSettings.from_mapping(env)
    message = str(refused.value)
    assert "MANIFESTRY_WORKERS" in message
    assert "MANIFESTRY_RESYNC_SECONDS" in message
    assert "sensitive" not in message


@pytest.mark.parametrize("section", [settings.OperatorSettings, settings.ApiSettings])
@pytest.mark.parametrize("name", ["Operator", "a/b", "-a", "a_b", "a..b", "x" * 64])
def test_a_name_that_the_api_server_would_refuse_is_refused_at_once(
    section: type[settings._Section], name: str
) -> None:
    with pytest.raises(settings.SettingsError, match="MANIFESTRY_LEASE_NAME"):
        section.from_mapping({"MANIFESTRY_LEASE_NAME": name})
    with pytest.raises(settings.SettingsError, match="MANIFESTRY_NAMESPACE"):
        settings.ClusterSettings.from_mapping({"MANIFESTRY_NAMESPACE": name})


def test_bad_variables_of_different_sections_are_reported_at_once() -> None:
    env = {"MANIFESTRY_WORKERS": "0", "MANIFESTRY_STORE_TYPE": "floppy"}
    with pytest.raises(settings.SettingsError, match=r"MANIFESTRY_WORKERS.*MANIFESTRY_STORE_TYPE"):
        process.Configuration.from_mapping(env)


def test_a_secret_is_not_shown() -> None:
    found = settings.StoreSettings.from_mapping({"MANIFESTRY_STORE_SECRET_ACCESS_KEY": "hunter2"})
    assert "hunter2" not in repr(found)
    assert found.store_secret_access_key is not None
    assert found.store_secret_access_key.get_secret_value() == "hunter2"


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        settings.ClusterSettings().namespace = "other"


def test_the_environment_is_the_processs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MANIFESTRY_TEST_ONLY", "1")
    assert settings.environment()["MANIFESTRY_TEST_ONLY"] == "1"


def test_operator_and_facade_agree_where_they_meet() -> None:
    operator, api = settings.OperatorSettings(), settings.ApiSettings()
    assert (operator.webhook_secret, operator.webhook_configuration, operator.lease_name) == (
        api.webhook_secret,
        api.webhook_configuration,
        api.lease_name,
    )
