"""Settings: which source wins, what is refused, and that everything wrong is said at once."""

from dataclasses import fields
from pathlib import Path

import pytest

from faas.config import Settings, is_loopback, load, load_client, wants_colour
from faas.config_values import SCOPES
from faas.errors import InvalidConfigError
from faas.tenancy import Scope


def problems_of(**variables: str) -> list[str]:
    with pytest.raises(InvalidConfigError) as caught:
        load(environment=variables)
    return list(caught.value.details["problems"])


@pytest.fixture(autouse=True)
def no_file_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_flag_beats_the_environment_beats_the_file_beats_the_default(tmp_path: Path) -> None:
    file = tmp_path / "faas.toml"
    file.write_text("port = 1001\npool_size = 2\nqueued_max = 3\n")
    found = load(
        {"port": 1003, "host": None},
        environment={"FAAS_PORT": "1002", "FAAS_POOL_SIZE": "5"},
        config_file=file,
    )
    settings = found.settings
    assert (settings.port, settings.pool_size, settings.queued_max) == (1003, 5, 3)
    assert settings.host == "127.0.0.1"
    assert found.origins == {
        "port": "--port",
        "pool_size": "FAAS_POOL_SIZE",
        "queued_max": "faas.toml: queued_max",
    }


def test_every_setting_has_a_default_that_works_and_a_sentence_of_why() -> None:
    described = load(environment={}).describe()
    assert [item.name for item in described] == [field.name for field in fields(Settings)]
    assert all(item.why.endswith(".") for item in described)


def test_all_wrong_values_are_reported_at_once() -> None:
    found = problems_of(FAAS_PORT="x", FAAS_LOG_LEVEL="loud", FAAS_DRAIN_SECONDS="nan")
    assert found == [
        "FAAS_DRAIN_SECONDS: 'nan' is not at least 0",
        "FAAS_LOG_LEVEL: 'loud' is none of debug, info, warning, error",
        "FAAS_PORT: 'x' is not a whole number",
    ]


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("FAAS_PORT", "-1"),
        ("FAAS_PORT", "65536"),
        ("FAAS_PORT", "8080.5"),
        ("FAAS_PORT", ""),
        ("FAAS_DISABLE_PREWARM", "perhaps"),
        ("FAAS_IMAGE_ALIASES", "alpine"),
        ("FAAS_CPU_CORES_MAX", "-inf"),
        ("FAAS_DATA_DIR", ""),
        ("FAAS_API_KEYS", "a:b:c:d"),
        ("FAAS_API_KEYS", "me:secret:fly"),
        ("FAAS_API_KEYS", ":secret"),
    ],
)
def test_a_wrong_value_is_refused_by_name(variable: str, value: str) -> None:
    found = problems_of(**{variable: value})
    assert len(found) == 1
    assert found[0].startswith(f"{variable}: ")


def test_a_wrong_secret_is_not_repeated_in_the_refusal() -> None:
    assert "hunter2" not in problems_of(FAAS_API_KEYS="a:hunter2:c:d")[0]


def test_a_misspelt_variable_is_refused_with_the_nearest_name() -> None:
    assert problems_of(FAAS_PROT="1") == ["FAAS_PROT: no such setting; did you mean FAAS_PORT?"]


def test_a_foreign_variable_is_only_mentioned() -> None:
    found = load(environment={"FAAS_CHAOS_ROUNDS": "3", "PATH": "/bin"})
    assert found.warnings == ("FAAS_CHAOS_ROUNDS is not a setting and was ignored",)


def test_an_unknown_key_in_the_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "faas.toml"
    file.write_text('pool_sise = 3\nhost = 4\n[image_aliases]\n"a" = 1\n')
    with pytest.raises(InvalidConfigError) as caught:
        load(environment={}, config_file=file)
    assert caught.value.details["problems"] == [
        "faas.toml: pool_sise: no such setting; did you mean pool_size?",
        "faas.toml: host: 4 is not text",
        "faas.toml: image_aliases: {'a': 1} is not a table of text",
    ]


@pytest.mark.parametrize("content", [b"port = = 1", b"\xff\xfe"])
def test_a_file_that_is_not_toml_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "faas.toml"
    file.write_bytes(content)
    with pytest.raises(InvalidConfigError):
        load(environment={"FAAS_CONFIG": str(file)})


def test_a_named_file_that_is_missing_is_refused(tmp_path: Path) -> None:
    assert "cannot be read" in problems_of(FAAS_CONFIG=str(tmp_path / "none.toml"))[0]


def test_the_file_in_the_working_directory_is_found(tmp_path: Path) -> None:
    (tmp_path / "faas.toml").write_text('image_aliases = {"a:1" = "host"}\n')
    assert load(environment={}).settings.image_aliases == {"a:1": "host"}


def test_a_secret_can_come_from_a_file(tmp_path: Path) -> None:
    secret = tmp_path / "keys"
    secret.write_text("first-key\nbob:second-key:read\n")
    settings = load(environment={"FAAS_API_KEYS_FILE": str(secret)}).settings
    keys = settings.parsed_api_keys()
    assert [(key.name, key.key, key.scopes) for key in keys] == [
        ("default", "first-key", SCOPES),
        ("bob", "second-key", ("read",)),
    ]


def test_a_secret_file_that_is_missing_is_refused(tmp_path: Path) -> None:
    assert problems_of(FAAS_API_KEYS_FILE=str(tmp_path / "none")) == [
        "FAAS_API_KEYS_FILE: cannot be read: No such file or directory"
    ]


def test_secrets_are_masked_when_described() -> None:
    found = load(environment={"FAAS_API_KEYS": "very-secret-key"})
    assert "very-secret-key" not in repr(found.describe())
    assert "very-secret-key" not in repr(found.settings.parsed_api_keys())


def test_listening_beyond_loopback_without_a_key_is_refused_with_the_way_to_allow_it() -> None:
    found = problems_of(FAAS_HOST="0.0.0.0")
    assert len(found) == 1
    assert "FAAS_API_KEYS" in found[0]
    assert "FAAS_ALLOW_INSECURE=true" in found[0]


def test_a_short_key_is_refused_beyond_loopback_only() -> None:
    load(environment={"FAAS_API_KEYS": "short"})
    assert "fewer than 16" in problems_of(FAAS_HOST="::", FAAS_API_KEYS="short")[0]


@pytest.mark.parametrize(
    "variables", [{"FAAS_API_KEYS": "k" * 16}, {"FAAS_ALLOW_INSECURE": "true"}]
)
def test_listening_beyond_loopback_is_allowed_when_it_is_meant(variables: dict[str, str]) -> None:
    assert load(environment={"FAAS_HOST": "0.0.0.0"} | variables).settings.host == "0.0.0.0"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_is_recognised(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org", ""])
def test_other_addresses_are_not_loopback(host: str) -> None:
    assert not is_loopback(host)


def test_a_default_above_its_ceiling_is_refused() -> None:
    assert problems_of(FAAS_MEMORY_MB_MAX="100", FAAS_POOL_MAX="1") == [
        "memory_mb_default is above memory_mb_max",
        "pool_size is above pool_max",
    ]


def test_the_scopes_a_key_may_name_are_those_that_exist() -> None:
    assert set(SCOPES) == {scope.value for scope in Scope}


def test_the_public_url_is_one_a_client_can_reach() -> None:
    assert Settings(host="0.0.0.0", port=1).public_url == "http://127.0.0.1:1"
    assert Settings(host="::", port=1).public_url == "http://[::1]:1"
    assert Settings(base_url="https://faas.example/").public_url == "https://faas.example"


def test_the_command_line_finds_its_gateway() -> None:
    assert load_client(environment={}).url == "http://127.0.0.1:8080"
    assert load_client(environment={"FAAS_PORT": "9"}).url == "http://127.0.0.1:9"
    named = {"FAAS_GATEWAY_URL": "http://a/", "FAAS_API_KEY": "k"}
    assert load_client(environment=named).url == "http://a"
    assert load_client("http://b", environment=named).url == "http://b"
    assert "k" not in repr(load_client(environment=named)).replace("ClientSettings", "")


def test_colour_is_off_when_asked() -> None:
    assert wants_colour(environment={})
    assert not wants_colour(environment={"NO_COLOR": "1"})
    assert not wants_colour(environment={"TERM": "dumb"})
