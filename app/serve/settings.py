"""Every setting of the service: `FCN_*` environment variables, typed, checked and documented.

`python -m app.serve.settings > docs/settings.md` writes the table for people.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NoReturn

from pydantic import BeforeValidator, DirectoryPath, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app.inference.batch_caps import MOST_IMAGES, MOST_PIXELS
from app.inference.processors import usable_processors
from app.paths import DEFAULT_CHECKPOINT
from app.serve.upload_budget import OVERHEAD_BYTES

PREFIX: Final = "FCN_"

_MOST_THREADS: Final = 8


class SettingsError(ValueError):
    """A setting has an impossible value; the message is one line."""


def _parse_sizes(value: object) -> object:
    """Turn `480x360,96x96` (width x height) into (height, width) pairs."""
    if not isinstance(value, str):
        return value
    sizes = []
    for word in filter(None, (part.strip() for part in value.split(","))):
        width, _, height = word.partition("x")
        if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
            raise ValueError(f"{word!r} is no size; sizes look like 480x360,96x96")
        sizes.append((int(height), int(width)))
    return tuple(sizes)


def _none_if_empty(value: object) -> object:
    """Turn "" into None: a path of no letters would be the working directory."""
    return None if value == "" else value


class Settings(BaseSettings):
    """Settings of one server process, read from the environment; arguments override it.

    Raises:
        ValidationError: On construction, if a value is impossible; see `load_settings`.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    checkpoint: Path = Field(
        DEFAULT_CHECKPOINT,
        description="Checkpoint to serve, read again on SIGHUP; a relative path starts at the "
        "working directory.",
        json_schema_extra={"unit": "path"},
    )
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        description="Where the network runs: `auto` (CUDA if there is one), `cpu`, `cuda`, "
        "`cuda:1` and so on.",
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto",
        description="Arithmetic of the network: `auto` (the fastest that keeps the masks), "
        "`fp32`, `bf16` or `fp16`.",
    )
    warm_up_sizes: Annotated[
        tuple[tuple[int, int], ...], NoDecode, BeforeValidator(_parse_sizes)
    ] = Field(
        ((360, 480),),
        description="Sizes run once before the server says it is ready, as `480x360,96x96`; "
        "empty for none.",
        json_schema_extra={"unit": "width x height, pixels", "shown": "480x360"},
    )
    host: str = Field(
        "127.0.0.1",
        min_length=1,
        description="Address to listen on; `0.0.0.0` for every IPv4 interface. The service has "
        "no authentication.",
    )
    port: int = Field(8000, ge=0, le=65535, description="TCP port; 0 picks a free one.")
    max_bytes: int = Field(
        33_554_432,
        ge=1,
        description="Largest request body; more is answered with 413 as soon as it is known.",
        json_schema_extra={"unit": "bytes"},
    )
    max_pixels: int = Field(
        16_777_216,
        ge=1,
        description="Largest photo, and largest input of the network after `scale`; more is "
        "answered with 413 from the header, before decoding.",
        json_schema_extra={"unit": "pixels"},
    )
    upload_bytes: int = Field(
        268_435_456,
        ge=1,
        description="Bytes of all uploads together that are held before they are decoded, plus "
        "64 KiB for each; beyond it uploads are answered with 429. At least `FCN_MAX_BYTES` plus "
        "64 KiB.",
        json_schema_extra={"unit": "bytes"},
    )
    request_images: int = Field(
        16,
        ge=1,
        le=256,
        description="Most images in one request; more are answered with 422. Their bytes together "
        "are held to `FCN_MAX_BYTES`, everything else counts for each of them.",
        json_schema_extra={"unit": "images"},
    )
    queue_requests: int = Field(
        256,
        ge=1,
        description="Photos received and not yet answered; beyond it 429.",
        json_schema_extra={"unit": "photos"},
    )
    queue_pixels: int = Field(
        134_217_728,
        ge=1,
        description="Pixels of all photos admitted and not yet answered, each counted at the "
        "larger of its own and the network's size; beyond it 429. A pixel takes up to 7 bytes. "
        "At least `FCN_MAX_PIXELS`.",
        json_schema_extra={"unit": "pixels"},
    )
    answer_bytes: int = Field(
        1_073_741_824,
        ge=1,
        description="Bytes of all answers that are being made or sent; beyond it 429. Those in "
        "`format=probabilities` count before they are made, with 4 bytes for a pixel and class: "
        "413 for a photo that alone would pass it.",
        json_schema_extra={"unit": "bytes"},
    )
    batch_images: int = Field(
        MOST_IMAGES,
        ge=1,
        description="Most photos in a batch. How many of a size share a forward to advantage is "
        "measured when the checkpoint is loaded; this bounds it.",
        json_schema_extra={"unit": "photos"},
    )
    batch_pixels: int = Field(
        MOST_PIXELS,
        ge=1,
        description="Most pixels in a batch, and in all that run at a time, which bounds the "
        "memory of forwards, whatever was measured; a larger photo runs alone.",
        json_schema_extra={"unit": "pixels"},
    )
    lanes: int | None = Field(
        None,
        ge=1,
        description="Most batches that run at a time on a CPU, each on its share of the cores, "
        "while several wait; a photo that nothing waits behind has all cores. 1 for one after "
        "another. On a GPU it is always 1.",
        json_schema_extra={
            "unit": "batches",
            "shown": "2, on three CPUs 3, from 12 on a quarter of them, at most 8",
        },
    )
    batch_delay_s: float = Field(
        0.0,
        ge=0,
        le=10,
        allow_inf_nan=False,
        description="How long a photo may wait for others of its shape while the device is "
        "idle. With 0 the device never waits; batches form while it is busy.",
        json_schema_extra={"unit": "seconds"},
    )
    decode_threads: int = Field(
        default_factory=lambda: default_threads(),
        ge=1,
        description="Threads that decode uploads.",
        json_schema_extra={"shown": f"one per CPU, at most {_MOST_THREADS}"},
    )
    encode_threads: int = Field(
        default_factory=lambda: default_threads(),
        ge=1,
        description="Threads that encode masks.",
        json_schema_extra={"shown": f"one per CPU, at most {_MOST_THREADS}"},
    )
    request_timeout_s: float = Field(
        60.0,
        gt=0,
        allow_inf_nan=False,
        description="From a request's first byte to its answer; then 504. A client's "
        "`X-Request-Timeout` can only shorten it. A request that would wait too long behind "
        "others to meet it is answered with 429 at once.",
        json_schema_extra={"unit": "seconds"},
    )
    drain_s: float = Field(
        30.0,
        ge=0,
        allow_inf_nan=False,
        description="After SIGTERM: how long requests already taken may need to be answered.",
        json_schema_extra={"unit": "seconds"},
    )
    drain_grace_s: float = Field(
        2.0,
        ge=0,
        allow_inf_nan=False,
        description="After SIGTERM: how long the listener stays open, answering new work with "
        "503, so that load balancers notice. Part of `FCN_DRAIN_S`.",
        json_schema_extra={"unit": "seconds"},
    )
    log_format: Literal["text", "json"] = Field(
        "text", description="Log lines for people or, one JSON object each, for programs."
    )
    label_studio_files: Annotated[DirectoryPath | None, BeforeValidator(_none_if_empty)] = Field(
        None,
        description="Directory that Label Studio's local storage begins at (its "
        "`LOCAL_FILES_DOCUMENT_ROOT`), mounted here too: `POST /label-studio/predict` then reads "
        "images of tasks from it. Whoever can reach the service can have them segmented. Without "
        "it tasks must hold their images as data URIs.",
        json_schema_extra={"unit": "path", "shown": "none"},
    )

    @model_validator(mode="after")
    def _bounds_admit_the_largest(self) -> "Settings":
        if self.queue_pixels < self.max_pixels:
            raise ValueError(
                f"{PREFIX}QUEUE_PIXELS ({self.queue_pixels}) is smaller than "
                f"{PREFIX}MAX_PIXELS ({self.max_pixels}): the largest photo could never be served"
            )
        if self.upload_bytes < self.max_bytes + OVERHEAD_BYTES:
            raise ValueError(
                f"{PREFIX}UPLOAD_BYTES ({self.upload_bytes}) is smaller than "
                f"{PREFIX}MAX_BYTES ({self.max_bytes}) plus {OVERHEAD_BYTES}: the largest upload "
                "could never be received"
            )
        if self.drain_s < self.drain_grace_s:
            raise ValueError(
                f"{PREFIX}DRAIN_S ({self.drain_s:g}) is shorter than the "
                f"{PREFIX}DRAIN_GRACE_S ({self.drain_grace_s:g}) that it includes"
            )
        return self


def default_threads() -> int:
    """One thread per CPU this process may use, at most `_MOST_THREADS`."""
    return min(usable_processors(), _MOST_THREADS)


def load_settings(**overrides: Any) -> Settings:
    """Read the settings; arguments go before the environment.

    Raises:
        SettingsError: If a value is impossible; the message is one line that names it.
    """
    try:
        return Settings(**overrides)
    except ValidationError as error:
        problems = []
        for problem in error.errors():
            message = problem["msg"].removeprefix("Value error, ")
            if problem["loc"]:
                name = str(problem["loc"][0])
                shown = name if name in overrides else f"{PREFIX}{name.upper()}"
                message = f"{shown}={problem['input']}: {message}"
            problems.append(message)
        raise SettingsError("; ".join(problems)) from None


def exit_with_usage_error(program: str, error: Exception) -> NoReturn:
    """Say in one line what is wrong with the way the program was started; exit code 2."""
    print(f"{program}: {error}", file=sys.stderr)
    sys.exit(2)


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """Names that look like settings and are none: most likely misspelt."""
    known = {f"{PREFIX}{name}".upper() for name in Settings.model_fields}
    return sorted(
        name for name in environment if name.startswith(PREFIX) and name.upper() not in known
    )


def as_markdown() -> str:
    """The text of `docs/settings.md`."""
    lines = [
        "# Settings",
        "",
        "Environment variables that `python -m app.serve` reads. The command's `--checkpoint`,",
        "`--device`, `--precision`, `--host` and `--port` go before theirs. An impossible value",
        "ends the start with one line and exit code 2; a variable that begins with",
        f"`{PREFIX}` and is not listed here is reported in the log. `uvicorn app.main:app` reads",
        "them too, but binds and stops as uvicorn does: host, port and the drain are its own.",
        "",
        "In Kubernetes set `enableServiceLinks: false` if a Service is called `fcn`: its injected",
        f"`{PREFIX}PORT=tcp://...` would be taken for the port.",
        "",
        "| variable | default | unit | meaning |",
        "|---|---|---|---|",
    ]
    for name, field in Settings.model_fields.items():
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        shown = str(extra["shown"]) if "shown" in extra else f"`{field.default}`"
        unit = str(extra.get("unit", ""))
        lines.append(f"| `{PREFIX}{name.upper()}` | {shown} | {unit} | {field.description} |")
    lines += [
        "",
        "This file is written by `python -m app.serve.settings > docs/settings.md`.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    print(as_markdown(), end="")
