"""Where the Docker Engine is, and how it is spoken to."""

import ssl
from dataclasses import dataclass
from pathlib import Path

from faas.errors import RuntimeUnavailableError

_SCHEMES = ("unix://", "tcp://", "http://", "https://")


@dataclass(frozen=True, slots=True)
class EngineAddress:
    """`unix:///path`, or `tcp://host:port`, by TLS when there is a directory of certificates."""

    url: str | None
    """None: the usual socket of this machine."""
    certificates: Path | None = None
    """`ca.pem` by which the Engine is known, `cert.pem` and `key.pem` by which we are."""

    @property
    def is_remote(self) -> bool:
        """Whether it may be on another machine: not over a socket in the file system."""
        return self.url is not None and not self.url.startswith("unix://")

    def check(self) -> None:
        """Refuse what is no address.

        Raises:
            RuntimeUnavailableError: it is none.
        """
        if self.url is not None and not self.url.startswith(_SCHEMES):
            raise RuntimeUnavailableError(
                f"{self.url[:80]!r} is not an address of a Docker Engine",
                hint="unix:///var/run/docker.sock, or tcp://host:2376",
            )

    @property
    def spoken(self) -> str | None:
        """The address with the scheme that is spoken."""
        if self.url is None or not self.is_remote:
            return self.url
        rest = self.url.partition("://")[2]
        return f"{'https' if self.is_tls else 'http'}://{rest}"

    @property
    def is_tls(self) -> bool:
        """Whether it is spoken to by TLS."""
        return self.is_remote and self.certificates is not None

    def context(self) -> ssl.SSLContext | None:
        """Read the certificates; None without TLS.

        Raises:
            RuntimeUnavailableError: one is missing, or is none.
        """
        if not self.is_tls or self.certificates is None:
            return None
        at = self.certificates
        try:
            made = ssl.create_default_context(cafile=str(at / "ca.pem"))
            made.load_cert_chain(at / "cert.pem", at / "key.pem")
        except (OSError, ssl.SSLError) as failure:
            raise RuntimeUnavailableError(
                "the certificates for the Docker Engine cannot be read",
                hint="set FAAS_DOCKER_CERT_PATH to a directory with ca.pem, cert.pem and key.pem",
            ) from failure
        return made
