"""Every setting: its name with its unit, its default, and why it is there.

A value comes from a flag, else from `FAAS_<NAME>` in the environment, else from the TOML file,
else it is the default. All wrong values are reported at once, and nothing starts with one. This is
the only place that reads the environment. `docs/reference/configuration.md` is generated from here.
"""

import dataclasses
import difflib
import ipaddress
import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast, get_type_hints

from faas.config_values import (
    ApiKey,
    Rule,
    WrongValueError,
    bounds,
    check,
    kind_name,
    masked,
    parse,
    parse_api_key,
    show,
)
from faas.errors import InvalidConfigError

T = TypeVar("T")

PREFIX = "FAAS_"
CLIENT_VARIABLES = {
    "FAAS_CONFIG": "path of the TOML file, instead of ./faas.toml or /etc/faas/faas.toml",
    "FAAS_GATEWAY_URL": "which gateway the command line talks to",
    "FAAS_API_KEY": "the key the command line sends",
}
_KEY_LENGTH_EXPOSED_MIN = 16
"""Keys are guessed online only; 16 characters of a random key are out of reach of that."""

_IMAGE_ALIASES = {
    "alpine:latest": "host",
    "python:3.11-slim": "host",
    "node:20-slim": "host",
    "node:18-alpine": "host",
    "ubuntu:22.04": "host",
}


def _default_data_dir() -> Path:
    if os.geteuid() == 0:
        return Path("/var/lib/faas")
    return Path.home() / ".local" / "share" / "faas"


def _docker_home() -> Path:
    place = os.environ.get("DOCKER_CONFIG")
    return Path(place) if place else Path.home() / ".docker"


def _setting(
    default: T | Callable[[], T],
    why: str,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    choices: tuple[str, ...] = (),
    is_secret: bool = False,
) -> T:
    rule = Rule(why, at_least, at_most, choices, is_secret)
    if callable(default):
        made = cast("Callable[[], T]", default)
        return dataclasses.field(default_factory=made, metadata={"rule": rule})
    return dataclasses.field(default=default, metadata={"rule": rule})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that can be set. Parsed once, handed down, never changed."""

    host: str = _setting("127.0.0.1", "Address to listen on; beyond loopback needs api_keys.")
    port: int = _setting(8080, "Port to listen on; 0 takes a free one.", at_least=0, at_most=65535)
    base_url: str = _setting("", "Address clients use, put into links; empty is http://host:port.")
    ports_url: str = _setting(
        "",
        "Where exposed ports of instances are, as https://*.sandboxes.example.com; the star is a"
        " port's name. Empty is http://*.localhost:port, for browsers on this machine.",
    )
    data_dir: Path = _setting(  # noqa: RUF009  it only describes the field
        _default_data_dir, "Where the ledger, outputs and images live; one gateway a directory."
    )
    api_keys: tuple[str, ...] = _setting(
        (),
        "Who may ask: `key` or `name:key` or `name:key:scope+scope`; empty lets everybody in.",
        is_secret=True,
    )
    allow_insecure: bool = _setting(
        False,  # noqa: FBT003  the default of a field, not an argument
        "Listen beyond loopback without keys: whoever reaches the port runs code here.",
    )
    cors_origins: tuple[str, ...] = _setting((), "Web pages of these origins may call the API.")
    body_bytes_max: int = _setting(
        64 << 20, "Largest request body; archives and stdin travel in it.", at_least=1024
    )

    runtimes: tuple[str, ...] = _setting(
        (), "Runtimes to open, best first; empty is all that are installed."
    )
    docker_host: str = _setting(
        "", "Address of the Docker Engine; empty is DOCKER_HOST, else the usual socket."
    )
    docker_oci_runtime: str = _setting(
        "", "OCI runtime the Docker Engine is to use; empty is crun where it has it."
    )
    docker_tls_verify: bool = _setting(
        False,  # noqa: FBT003
        "Speak TLS with a tcp:// Engine and check its certificate; also by DOCKER_TLS_VERIFY.",
    )
    docker_cert_path: str = _setting(
        "",
        "Directory of ca.pem, cert.pem and key.pem; empty is DOCKER_CERT_PATH, else ~/.docker.",
    )
    docker_agent: str = _setting(
        "auto",
        "How the agent gets into containers: `bind` from this machine, `copy` to a remote Engine.",
        choices=("auto", "bind", "copy"),
    )
    pull_policy: str = _setting(
        "missing",
        "When a request that does not say fetches its image: if it is not here, always, or never.",
        choices=("missing", "always", "never"),
    )
    pull_registries: tuple[str, ...] = _setting(
        ("*",),
        "Registries that requests may pull from; `*` is all but addresses and this machine.",
    )
    pull_seconds_max: float = _setting(
        900.0, "Longest that fetching one image may take.", at_least=1
    )
    build_seconds_max: float = _setting(
        1800.0, "Longest that building one image may take.", at_least=1
    )
    build_bytes_max: int = _setting(
        1 << 30, "Largest context that an image may be built from.", at_least=1024
    )
    import_bytes_max: int = _setting(
        64 << 30,
        "Largest file of a snapshot that may be taken in; it is stored as it comes.",
        at_least=1024,
    )
    criu_prefix: str = _setting(
        "",
        "Where scripts/criu.sh put CRIU, for memory checkpoints; empty is `criu` in the data "
        "directory.",
    )
    memory_key: str = _setting(
        "",
        "Seals memory snapshots; gateways that share a bucket need the same. Empty is one of the "
        "data directory's own.",
        is_secret=True,
    )
    egress_dns: tuple[str, ...] = _setting(
        ("1.1.1.1", "9.9.9.9"),
        "Name servers (IPv4) of sandboxes with egress; a private one is reached for names only.",
    )
    default_image: str = _setting("host", "Image of a request that names none.")
    image_aliases: dict[str, str] = _setting(  # noqa: RUF009
        lambda: dict(_IMAGE_ALIASES),
        "What an image name means while no image of that name was imported.",
    )
    image_bytes_max: int = _setting(
        16 << 30,
        "Largest unpacked image; a hostile archive cannot fill the disk.",
        at_least=1 << 20,
    )

    pool_size: int = _setting(
        8, "Sandboxes of the default image kept ready; each is used once.", at_least=0, at_most=4096
    )
    pool_max: int = _setting(
        64,
        "Ready sandboxes of all images together; recent demand fills it.",
        at_least=0,
        at_most=4096,
    )
    pool_memory_mb: int = _setting(
        1024,
        "MiB that ready sandboxes may hold together: half a MiB each, a container 16.",
        at_least=0,
    )
    pool_reserve_percent: int = _setting(
        5,
        "When less of the machine's memory is available, nothing is made ready.",
        at_least=0,
        at_most=90,
    )
    disable_prewarm: bool = _setting(
        False,  # noqa: FBT003
        "Keep no sandbox ready: less memory, slower starts.",
    )
    running_max: int = _setting(
        64, "Executions at once; more wait in the queue.", at_least=1, at_most=65536
    )
    queued_max: int = _setting(
        1024, "Executions that may wait; one more is told to come back later.", at_least=0
    )
    tenant_running_max: int = _setting(
        64, "Executions of one key at once, so that one cannot take all.", at_least=1
    )
    tenant_queued_max: int = _setting(1024, "Executions of one key that may wait.", at_least=0)

    timeout_ms_default: int = _setting(30_000, "Time of a command that names none.", at_least=1)
    timeout_ms_max: int = _setting(3_600_000, "Longest time a request may ask for.", at_least=1)
    memory_mb_default: int = _setting(512, "Memory of a command that names none.", at_least=4)
    memory_mb_max: int = _setting(16_384, "Most memory a request may ask for.", at_least=4)
    cpu_cores_default: float = _setting(1.0, "Cores of a command that names none.", at_least=0.01)
    cpu_cores_max: float = _setting(64.0, "Most cores a request may ask for.", at_least=0.01)
    pids_default: int = _setting(256, "Processes and threads of a command at once.", at_least=8)
    pids_max: int = _setting(4096, "Most processes a request may ask for.", at_least=8)
    disk_mb_default: int = _setting(256, "What a command may write to its own disk.", at_least=1)
    disk_mb_max: int = _setting(10_240, "Most disk a request may ask for.", at_least=1)
    output_bytes_default: int = _setting(
        16 << 20, "Kept of stdout, and of stderr; the rest is counted and dropped.", at_least=1
    )
    output_bytes_max: int = _setting(256 << 20, "Most output a request may keep.", at_least=1)

    retention_count_max: int = _setting(
        100_000, "Finished executions kept; the oldest go first.", at_least=1
    )
    retention_seconds_max: int = _setting(
        7 * 86_400, "Age at which a finished execution is forgotten.", at_least=60
    )
    retention_bytes_max: int = _setting(
        4 << 30, "Output kept of finished executions together.", at_least=1 << 20
    )
    ledger_sync: str = _setting(
        "normal",
        "`normal` survives a crash of the gateway, `full` also a loss of power, at a cost.",
        choices=("normal", "full"),
    )
    cache_bytes_max: int = _setting(
        1 << 30, "Results kept for mode cached; the least lately used go first.", at_least=0
    )
    cache_seconds_max: int = _setting(
        86_400, "Age at which a cached result is no answer any more.", at_least=1
    )
    dependency_cache_mb: int = _setting(
        1024,
        "MiB of what pip, npm, cargo and go fetched kept for each tenant; 0 keeps none.",
        at_least=0,
    )
    dependency_cache_total_mb: int = _setting(
        8192, "The same for all tenants together; the least lately used goes.", at_least=0
    )
    cache_verify_share: float = _setting(
        0.0,
        "Share of cached answers that are run all the same and compared.",
        at_least=0,
        at_most=1,
    )
    parked_max: int = _setting(
        8,
        "Sandboxes of ended executions kept a while so that they can be forked.",
        at_least=0,
        at_most=1024,
    )
    layers_bytes_max: int = _setting(
        1 << 30,
        "Memory for states kept ready so that forks start at once; made anew when they are not.",
        at_least=0,
    )
    parked_seconds: float = _setting(
        120.0,
        "How long such a sandbox is kept; mode checkpointed keeps files for good.",
        at_least=0,
    )
    forked_seconds_max: float = _setting(
        86_400.0, "Age at which a snapshot taken only for a fork is forgotten.", at_least=60
    )
    unnamed_seconds_max: float = _setting(
        0.0,
        "Age at which an execution's snapshot without name or tag is forgotten; 0 keeps it.",
        at_least=0,
    )
    object_store_url: str = _setting(
        "",
        "Where snapshots are kept besides here: s3://bucket/prefix, with the AWS variables.",
    )
    object_store_ack: bool = _setting(
        True,  # noqa: FBT003
        "A snapshot is acknowledged only when it is in the object store too.",
    )
    drain_seconds: float = _setting(
        25.0,
        "After SIGTERM, wait this long; what still runs is taken up at the next start.",
        at_least=0,
    )
    log_level: str = _setting(
        "info", "Least level that is logged.", choices=("debug", "info", "warning", "error")
    )
    log_format: str = _setting(
        "auto",
        "`json` one object a line; `text` for people; `auto` is text on a terminal.",
        choices=("auto", "json", "text"),
    )

    def parsed_api_keys(self) -> tuple[ApiKey, ...]:
        """The keys, taken apart."""
        return tuple(parse_api_key(text) for text in self.api_keys)

    @property
    def docker_address(self) -> str:
        """The Docker Engine's address; empty when only its usual socket is left to try."""
        return self.docker_host or os.environ.get("DOCKER_HOST", "")

    @property
    def docker_is_tls(self) -> bool:
        """Whether a tcp:// Engine is spoken to by TLS."""
        return self.docker_tls_verify or bool(os.environ.get("DOCKER_TLS_VERIFY"))

    @property
    def docker_certificates(self) -> Path:
        """Where the certificates for the Engine are."""
        place = self.docker_cert_path or os.environ.get("DOCKER_CERT_PATH")
        return Path(place) if place else _docker_home()

    @property
    def docker_config(self) -> Path:
        """Docker's own file of registries and their credentials."""
        return _docker_home() / "config.json"

    @property
    def exposed_url(self) -> str:
        """Where exposed ports are."""
        return self.ports_url or f"http://*.localhost:{self.port}"

    @property
    def public_url(self) -> str:
        """The address to tell people; loopback when listening everywhere."""
        if self.base_url:
            return self.base_url.rstrip("/")
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104
        host = f"[{host}]" if ":" in host else host
        return f"http://{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Described:
    """One setting as people are told about it."""

    name: str
    variable: str
    kind: str
    default: str
    value: str
    origin: str
    why: str
    is_secret: bool
    bounds: str


@dataclass(frozen=True, slots=True)
class Configuration:
    """The settings, and where each value came from."""

    settings: Settings
    origins: Mapping[str, str]
    warnings: tuple[str, ...] = ()

    def describe(self) -> list[Described]:
        """Every setting in the order of the class, secrets masked."""
        fresh = Settings()
        return [
            Described(
                name=field.name,
                variable=PREFIX + field.name.upper(),
                kind=kind_name(_HINTS[field.name]),
                default=show(getattr(fresh, field.name)),
                value=masked(getattr(self.settings, field.name), _rule(field)),
                origin=self.origins.get(field.name, "default"),
                why=_rule(field).why,
                is_secret=_rule(field).is_secret,
                bounds=bounds(_rule(field)),
            )
            for field in dataclasses.fields(Settings)
        ]


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """What the command line needs to reach a gateway."""

    url: str
    api_key: str | None = dataclasses.field(repr=False)


def load(
    flags: Mapping[str, object] | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    config_file: Path | None = None,
) -> Configuration:
    """Read all sources and return the settings.

    Args:
        flags: values given on the command line, by setting name; None values are skipped.

    Raises:
        InvalidConfigError: details carry every problem.
    """
    environment = os.environ if environment is None else environment
    reader = _Reader()
    path = config_file or _find_file(environment)
    if path is not None:
        reader.read_file(path)
    reader.read_environment(environment)
    reader.read_flags(flags or {})
    settings = Settings(**reader.values)  # pyright: ignore[reportArgumentType]
    reader.problems.extend(_contradictions(settings))
    if reader.problems:
        count = len(reader.problems)
        raise InvalidConfigError(
            f"{count} setting{'s are' if count > 1 else ' is'} wrong",
            hint="faas config --reference",
            details={"problems": list(reader.problems)},
        )
    return Configuration(settings, dict(reader.origins), tuple(reader.warnings))


def load_client(
    url: str | None = None, *, environment: Mapping[str, str] | None = None
) -> ClientSettings:
    """Find the gateway the command line should talk to."""
    environment = os.environ if environment is None else environment
    found = url or environment.get("FAAS_GATEWAY_URL")
    if not found:
        port = environment.get("FAAS_PORT", "8080")
        found = environment.get("FAAS_BASE_URL") or f"http://127.0.0.1:{port}"
    return ClientSettings(found.rstrip("/"), environment.get("FAAS_API_KEY") or None)


def aws_variables(*, environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables that object stores are reached by; they hold secrets and are never shown."""
    environment = os.environ if environment is None else environment
    return {name: value for name, value in environment.items() if name.startswith("AWS_")}


def wants_colour(*, environment: Mapping[str, str] | None = None) -> bool:
    """Whether words may be styled: not with NO_COLOR set, nor on a dumb terminal."""
    environment = os.environ if environment is None else environment
    return not environment.get("NO_COLOR") and environment.get("TERM") != "dumb"


class _Reader:
    """Collects values from the weakest source to the strongest, and every problem met."""

    def __init__(self) -> None:
        self.values: dict[str, object] = {}
        self.origins: dict[str, str] = {}
        self.problems: list[str] = []
        self.warnings: list[str] = []

    def read_file(self, path: Path) -> None:
        try:
            table = tomllib.loads(path.read_text())
        except OSError as failure:
            self.problems.append(f"{path}: cannot be read: {failure.strerror}")
            return
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as failure:
            self.problems.append(f"{path}: is not TOML: {failure}")
            return
        for key, value in table.items():
            label = f"{path.name}: {key}"
            if key.endswith("_file") and _is_secret(key.removesuffix("_file")):
                self._take_secret_file(key.removesuffix("_file"), str(value), label)
            elif key in _FIELDS:
                self._take(key, value, label)
            else:
                self.problems.append(f"{label}: no such setting{_nearest(key, list(_FIELDS))}")

    def read_environment(self, environment: Mapping[str, str]) -> None:
        for variable in sorted(environment):
            if not variable.startswith(PREFIX) or variable in CLIENT_VARIABLES:
                continue
            name = variable.removeprefix(PREFIX).lower()
            if name.endswith("_file") and _is_secret(name.removesuffix("_file")):
                self._take_secret_file(name.removesuffix("_file"), environment[variable], variable)
            elif name in _FIELDS:
                self._take(name, environment[variable], variable)
            else:
                self._unknown_variable(variable)

    def read_flags(self, flags: Mapping[str, object]) -> None:
        for name, value in flags.items():
            label = f"--{name.replace('_', '-')}"
            if name not in _FIELDS:
                self.problems.append(f"{label}: no such setting{_nearest(name, list(_FIELDS))}")
            elif value is not None:
                self._take(name, value, label)

    def _unknown_variable(self, variable: str) -> None:
        # A near miss is a typo and stops the start; others may belong to another program.
        known = [PREFIX + name.upper() for name in _FIELDS]
        hint = _nearest(variable, known)
        if hint:
            self.problems.append(f"{variable}: no such setting{hint}")
        else:
            self.warnings.append(f"{variable} is not a setting and was ignored")

    def _take_secret_file(self, name: str, path: str, label: str) -> None:
        try:
            text = Path(path).read_text()
        except (OSError, UnicodeDecodeError) as failure:
            reason = failure.strerror if isinstance(failure, OSError) else "not text"
            self.problems.append(f"{label}: cannot be read: {reason}")
            return
        self._take(name, ",".join(text.split()), label)

    def _take(self, name: str, raw: object, label: str) -> None:
        rule = _rule(_FIELDS[name])
        try:
            value = parse(_HINTS[name], raw)
            check(value, rule)
        except WrongValueError as failure:
            shown = "the value" if rule.is_secret else repr(raw)[:80]
            self.problems.append(f"{label}: {shown} {failure}")
        else:
            self.values[name] = value
            self.origins[name] = label


def _find_file(environment: Mapping[str, str]) -> Path | None:
    named = environment.get("FAAS_CONFIG")
    if named:
        return Path(named)
    places = (Path("faas.toml"), Path("/etc/faas/faas.toml"))
    return next((place for place in places if place.is_file()), None)


def _wrong_dns(settings: Settings) -> list[str]:
    return [
        f"egress_dns: {server!r} is not an IPv4 address"
        for server in settings.egress_dns
        if not _is_ipv4(server)
    ]


def _is_ipv4(text: str) -> bool:
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return True


def _contradictions(settings: Settings) -> list[str]:
    found = [
        f"{name}_default is above {name}_max"
        for name in ("timeout_ms", "memory_mb", "cpu_cores", "disk_mb", "output_bytes", "pids")
        if getattr(settings, f"{name}_default") > getattr(settings, f"{name}_max")
    ]
    if settings.pool_size > settings.pool_max:
        found.append("pool_size is above pool_max")
    found.extend(_wrong_dns(settings))
    if not is_loopback(settings.host) and not settings.allow_insecure:
        found.extend(_exposure(settings))
    return found


def _exposure(settings: Settings) -> list[str]:
    if not settings.api_keys:
        return [
            (
                f"host {settings.host!r} is beyond loopback and there is no key: whoever reaches"
                " the port would run code here; set FAAS_API_KEYS, or FAAS_ALLOW_INSECURE=true"
                " if that is meant"
            )
        ]
    short = [k.name for k in settings.parsed_api_keys() if len(k.key) < _KEY_LENGTH_EXPOSED_MIN]
    return [
        f"the API key {name!r} has fewer than {_KEY_LENGTH_EXPOSED_MIN} characters,"
        f" too few for host {settings.host!r}; `openssl rand -hex 24` makes one"
        for name in short
    ]


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach that address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
    return f"; did you mean {near[0]}?" if near else ""


def _is_secret(name: str) -> bool:
    return name in _FIELDS and _rule(_FIELDS[name]).is_secret


def _rule(field: "dataclasses.Field[object]") -> Rule:
    return cast("Rule", field.metadata["rule"])


_FIELDS = {field.name: field for field in dataclasses.fields(Settings)}
_HINTS = get_type_hints(Settings)
