"""Settings of the service: environment variables with the prefix ``D3GZSL_``, each also a flag of `d3gzsl serve`."""

from __future__ import annotations

import ipaddress
import os
import re
import tempfile
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from model.errors import BundleError, Problem
from model.preprocess import DEFAULT_MAX_PIXELS
from service.errors import SettingsError
from service.inference.sessions import PrecisionChoice, Provider

PREFIX = "D3GZSL_"
EMBEDDED_BUNDLE = Path(__file__).parent / "demo_bundle"
_BYTES_IN_FLIGHT = 100_000_000
CommaSeparated = Annotated[tuple[str, ...], NoDecode]
"""Several values; written with commas in an environment variable or a flag."""
_ORIGIN = re.compile(r"https?://[A-Za-z0-9.-]+(:\d{1,5})?|https?://\[[0-9a-fA-F:]+\](:\d{1,5})?")
_SERVICE_LINK = re.compile(r"(tcp|udp|sctp)://\S+:\d+")
"""What Kubernetes puts into the variable NAME_PORT of every container beside a Service called NAME."""


def default_data_dir() -> Path:
    """Where each bundle has a folder by default: `d3gzsl` in the user's data directory, or in the temporary one."""
    base = os.environ.get("XDG_DATA_HOME", "")
    if base and Path(base).is_absolute():
        return Path(base) / "d3gzsl"
    try:
        return Path.home() / ".local" / "share" / "d3gzsl"
    except RuntimeError:
        return Path(tempfile.gettempdir()) / "d3gzsl"


class Settings(BaseSettings):
    """Everything an operator may choose; every field is a variable ``D3GZSL_<FIELD>`` and a flag ``--<field>``."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, extra="ignore", frozen=True, hide_input_in_errors=True
    )

    bundle: Path | None = Field(None, description="Bundle directory; the embedded demo bundle where it is not given.")
    bundle_keys: CommaSeparated = Field(
        (), description="PEM files of Ed25519 keys one of which must have signed the bundle, with commas between."
    )
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes any free one.")
    data_dir: Path | None = Field(
        None, description="Where the registry is kept; a directory of the bundle's own where it is not given."
    )
    database_url: str | None = Field(
        None, description="Database of the registry; a SQLite file in the data directory where it is not given."
    )
    database_password_file: Path | None = Field(
        None, description="File with the password for a PostgreSQL database whose URL has none."
    )
    backup_dir: Path | None = Field(
        None, description="Where back-ups of the registry are made by themselves; none are else."
    )
    backup_changes: int = Field(100, ge=1, description="Versions of the registry after which the next back-up is made.")
    backup_hours: float = Field(
        24.0, gt=0, le=10_000, description="Hours after which it is made where anything has changed since the last one."
    )
    backup_keep: int = Field(7, ge=1, le=1000, description="Back-ups that are kept; older ones are removed.")
    poll_interval: float = Field(
        1.0, gt=0, le=60, description="Seconds between looks for classes that other processes registered."
    )
    max_lag: float = Field(
        10.0, gt=0, le=3600, description="Seconds without reading the registry after which /readyz answers 503."
    )
    keys: CommaSeparated = Field((), description="Access keys, as `keys new` prints them, with commas between.")
    keys_file: Path | None = Field(
        None, description="File with one key per line, as `keys new` writes it; # starts a comment."
    )
    allow_anonymous: bool = Field(False, description="Start without keys on an address others can reach.")
    allowed_hosts: CommaSeparated = Field(
        (), description="Host names that requests may be sent to, beside loopback and --host; * allows any."
    )
    cors_origins: CommaSeparated = Field(
        (), description="Origins whose pages may use the service from a browser, such as https://zoo.example."
    )
    trusted_proxies: CommaSeparated = Field(
        (), description="Addresses or networks of proxies whose X-Forwarded-For is believed; * believes anyone's."
    )
    root_path: str | None = Field(
        None, pattern=r"^(/[A-Za-z0-9._~-]+)+$", description="Path under which a proxy shows the service, such as /zoo."
    )
    rate_limit: float = Field(
        0.0, ge=0, description="Requests a second that a key, or without keys an address, may send; 0 for any number."
    )
    rate_burst: int = Field(20, ge=1, description="Requests that it may send at once, where there is a limit.")
    max_image_bytes: int = Field(20_000_000, ge=1, description="Largest image file, in bytes.")
    max_image_pixels: int = Field(DEFAULT_MAX_PIXELS, ge=1, description="Largest image, width times height.")
    max_request_pixels: int = Field(
        1_000_000_000, ge=1, description="Most pixels of all images of a request; identical ones count once."
    )
    decode_memory: int = Field(
        256_000_000, ge=64_000_000, description="Bytes that decoding of large images may take, of one and of all."
    )
    decode_seconds: float = Field(10.0, gt=0, le=3600, description="Most seconds of computing to decode one image.")
    max_batch_images: int = Field(64, ge=1, description="Most images in one request.")
    max_request_bytes: int = Field(100_000_000, ge=1, description="Largest request body, in bytes.")
    max_bytes_in_flight: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto", description="Most bytes of all request bodies at once; auto takes 100 MB, or the largest body if more."
    )
    max_batch_classes: int = Field(1000, ge=1, description="Most classes in one batch.")
    max_examples: int = Field(100, ge=1, le=1000, description="Most example photos of one class.")
    max_batch_examples: int = Field(
        200, ge=1, description="Most example photos of all classes in one batch; never more than queue_size."
    )
    max_explained: int = Field(5, ge=0, le=100, description="Most classes that are explained for one image.")
    batch_size: int = Field(16, ge=1, le=1024, description="Most images the model sees at once.")
    parallel_batches: Annotated[int, Field(ge=1, le=64)] | Literal["auto"] = Field(
        "auto",
        description="Batches at once where many images wait, each with a share of the CPUs; 1 for one at a time.",
    )
    queue_size: int = Field(256, ge=1, description="Most images waiting or at work; more are answered with 503.")
    threads: int = Field(0, ge=0, le=1024, description="Threads of the model and of decoding; 0 takes every CPU.")
    provider: Provider = Field("cpu", description="What runs the model: cpu, cuda or tensorrt.")
    precision: PrecisionChoice = Field(
        "auto", description="Which of the bundle's trunks runs: fp32, int8, or auto for the faster one on this CPU."
    )
    workers: Annotated[int, Field(ge=1, le=256)] | Literal["auto"] = Field(
        "auto", description="Processes that share the port; auto takes one per eight CPUs, or one for a GPU."
    )
    deadline: float = Field(30.0, gt=0, le=3600, description="Seconds after which a request is given up with 503.")
    body_timeout: float = Field(30.0, gt=0, le=3600, description="Seconds within which a request's body must come.")
    header_timeout: float = Field(10.0, gt=0, le=3600, description="Seconds within which a request's head must come.")
    idle_timeout: float = Field(
        75.0, gt=0, le=3600, description="Seconds that a connection is kept without a request, or without being read."
    )
    max_connections: Annotated[int, Field(ge=1, le=100_000)] | Literal["auto"] = Field(
        "auto", description="Most connections of a process; auto takes 1000, or what the limit on open files leaves."
    )
    grace_period: float = Field(
        20.0, gt=0, le=3600, description="Seconds that requests have to end when the service is told to stop."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe log lines.")
    log_format: Literal["text", "json"] = Field("text", description="Form of the log lines.")
    slow_request: float = Field(
        5.0, ge=0, le=3600, description="Seconds beyond which a request gets a warning in the log; 0 for none."
    )
    traces_url: str | None = Field(
        None, pattern=r"^https?://", description="Where OpenTelemetry traces are sent, OTLP over HTTP."
    )
    trace_share: float = Field(1.0, ge=0, le=1, description="Share of the requests that are traced.")

    @field_validator("port", mode="before")
    @classmethod
    def _pass_over_service_link(cls, value: Any) -> Any:
        return cls.model_fields["port"].default if is_service_link(value) else value

    @field_validator("keys", "bundle_keys", "allowed_hosts", "cors_origins", "trusted_proxies", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(v.strip() for v in value.split(",") if v.strip()) if isinstance(value, str) else value

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if _ORIGIN.fullmatch(origin) is None:
                raise ValueError(
                    f"expected an origin such as https://zoo.example or http://localhost:3000, got {origin!r}"
                )
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _are_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for network in value:
            if network != "*":
                try:
                    ipaddress.ip_network(network)
                except ValueError as error:
                    raise ValueError(f"expected an address, a network such as 10.0.0.0/8, or *; {error}") from None
        return value

    @field_validator("log_level", "log_format", mode="before")
    @classmethod
    def _lower(cls, value: Any) -> Any:
        return value.lower() if isinstance(value, str) else value

    @model_validator(mode="after")
    def _queue_holds_a_request(self) -> Settings:
        if self.queue_size < self.max_batch_images:
            raise ValueError(
                f"queue_size ({self.queue_size}) must be at least max_batch_images ({self.max_batch_images})"
            )
        return self

    @model_validator(mode="after")
    def _bytes_hold_a_request(self) -> Settings:
        if self.bytes_in_flight < self.max_request_bytes:
            raise ValueError(
                f"max_bytes_in_flight ({self.max_bytes_in_flight}) must be at least max_request_bytes "
                f"({self.max_request_bytes})"
            )
        return self

    @property
    def bytes_in_flight(self) -> int:
        """Most bytes of all request bodies at once."""
        if self.max_bytes_in_flight == "auto":
            return max(_BYTES_IN_FLIGHT, self.max_request_bytes)
        return self.max_bytes_in_flight

    @model_validator(mode="after")
    def _request_holds_an_image(self) -> Settings:
        if self.max_request_pixels < self.max_image_pixels:
            raise ValueError(
                f"max_request_pixels ({self.max_request_pixels}) must be at least max_image_pixels "
                f"({self.max_image_pixels})"
            )
        return self

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine can reach the address."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def bundle_path(path: Path | None) -> Path:
    """The directory of a bundle, or of the embedded demo bundle; BundleError where there is no such one."""
    if path is None and not EMBEDDED_BUNDLE.is_dir():
        raise BundleError("this installation has no embedded demo bundle; name a bundle with --bundle DIR")
    return path or EMBEDDED_BUNDLE


def is_service_link(value: object) -> bool:
    """Whether a value is what Kubernetes says of a Service, and not what anybody chose."""
    return isinstance(value, str) and _SERVICE_LINK.fullmatch(value) is not None


def ignored_variables() -> list[str]:
    """A sentence for each variable of the environment that is passed over, for the log."""
    return [
        f"{name}={value} is ignored: Kubernetes sets it for a Service of this name; to choose a port, give --port, or "
        "set enableServiceLinks: false in the pod and the variable to a number"
        for name, value in os.environ.items()
        if name.upper() == f"{PREFIX}PORT" and is_service_link(value)
    ]


def load_settings(**flags: Any) -> Settings:
    """Settings from the environment, with flags that are not None laid over them.

    Raises:
        SettingsError: names every variable or flag that is wrong.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    try:
        return Settings(**given)
    except ValidationError as error:
        raise SettingsError(
            "the settings are not valid",
            [Problem(pointer=_source(e["loc"], given), detail=e["msg"]) for e in error.errors()],
        ) from None


def _source(location: tuple[int | str, ...], flags: dict[str, Any]) -> str:
    if not location:
        return ""
    name = str(location[0])
    return f"--{name.replace('_', '-')}" if name in flags else f"{PREFIX}{name.upper()}"
