"""config.toml + environment + defaults. Every default of the program stands here or in records.py, once."""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from medusa_chat.config_file import config_file, line_of, write_values
from medusa_chat.errors import UsageError
from medusa_chat.records import (
    MIN_CONTEXT_LENGTH,
    Device,
    DType,
    KVPrecision,
    LMHeadPrecision,
    LoadRequest,
    Quantization,
    SamplingOptions,
)

_PREFIX = "MEDUSA_CHAT_"
_DELIMITER = "__"
_OTHER_VARIABLES = ("home",)  # paths.py reads it
_SAMPLING = TypeAdapter(SamplingOptions)
_SAMPLING_KEYS = tuple(field.name for field in dataclasses.fields(SamplingOptions))


class Settings(BaseSettings):
    """What config.toml may hold; each key also as MEDUSA_CHAT_<KEY>, and those of a table.

    presets: the user's own, by name. keys: the id of an action -> its keys, as "ctrl+r,f12"; app/keys.py has
    the ids and what is right.
    """

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX, env_nested_delimiter=_DELIMITER, env_ignore_empty=True, extra="forbid"
    )

    model: str = "smollm2-135m"
    quant: Quantization | None = None
    device: Device = "auto"
    dtype: DType = "auto"
    kv_cache: KVPrecision = "full"
    lm_head: LMHeadPrecision = "full"
    context_length: int | None = Field(default=None, ge=MIN_CONTEXT_LENGTH)
    system: str | None = None
    theme: str = "textual-dark"
    screen_reader: bool = False
    notify: bool = True
    sampling: SamplingOptions = SamplingOptions()
    presets: dict[str, SamplingOptions] = {}
    keys: dict[str, str] = {}

    def load_request(self, heads: str | None) -> LoadRequest:
        """For the model that is set; heads: those given, if any."""
        return LoadRequest(
            model=self.model,
            heads=heads,
            quantization=self.quant,
            device=self.device,
            dtype=self.dtype,
            kv_cache=self.kv_cache,
            context_length=self.context_length,
            lm_head=self.lm_head,
        )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, config_file())


def load_settings(**overrides: Any) -> Settings:
    """Settings with None-valued overrides ignored.

    Raises UsageError naming the key and where it stands, or the line when config.toml is not TOML.
    """
    file = config_file()
    _check_variables()
    if file.is_dir():  # pydantic would take it for none at all
        raise UsageError(f"{file} can't be read: it is a folder. Remove it, or put a file in its place.")
    try:
        return Settings(**{key: value for key, value in overrides.items() if value is not None})
    except ValidationError as error:
        raise UsageError(_sentence(error.errors()[0])) from None
    except SettingsError as error:
        name = next(name for name in Settings.model_fields if f'"{name}"' in str(error))
        raise UsageError(
            f"{_PREFIX}{name.upper()} can't be read: it is no JSON of a table. "
            f"Set {_PREFIX}{name.upper()}{_DELIMITER}<KEY> instead."
        ) from None
    except OSError as error:
        raise UsageError(f"{file} can't be read: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{file} can't be read: it is not UTF-8 (at line {line}).") from None
    except ValueError as error:  # tomllib's error carries line and column
        raise UsageError(f"{file} can't be read: {error}.") from None


def save_defaults(sampling: SamplingOptions, system: str | None, theme: str) -> Path:
    """Makes these what the program begins with. Returns config.toml, which holds what differs from the
    built-in defaults. Raises UsageError or CheckpointError, as write_values does.
    """
    builtin = Settings.model_construct()
    return write_values(
        {"system": system, "theme": theme, "sampling": _SAMPLING.dump_python(sampling, mode="json")},
        {
            "system": builtin.system,
            "theme": builtin.theme,
            "sampling": _SAMPLING.dump_python(builtin.sampling, mode="json"),
        },
    )


def place_of(keys: Sequence[str]) -> str:
    """Where a key is set: an environment variable, or config.toml and, where it can be found, the line."""
    if variable := _variable(keys):
        return variable
    file = config_file()
    try:
        line = line_of(file.read_text(encoding="utf-8"), keys)
    except OSError:  # there is none: the key came as an option
        line = None
    return str(file) if line is None else f"{file}, line {line}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A sentence to put after another: the nearest of the known names, or nothing."""
    near = difflib.get_close_matches(name, tuple(known), n=1)
    return f" Did you mean {near[0]}?" if near else ""


def _check_variables() -> None:
    """Raises UsageError for a variable that would be ignored without a word."""
    known = [_PREFIX + name.upper() for name in (*Settings.model_fields, *_OTHER_VARIABLES)]
    for variable in os.environ:
        name = variable.upper().partition(_DELIMITER)[0]
        if name.startswith(_PREFIX) and name not in known:
            raise UsageError(
                f"The environment sets {variable}, which is not known.{did_you_mean(name, known)}"
            )


def _sentence(error: ErrorDetails) -> str:
    keys = _faulty_keys(error)
    place = f"Setting {'.'.join(keys)} is wrong"
    if error["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        known = Settings.model_fields if len(keys) == 1 else _SAMPLING_KEYS
        return f"{place}: it is not known (look in {place_of(keys)}).{did_you_mean(keys[-1], known)}"
    what = error["msg"].removeprefix("Value error, ").rstrip(".")
    return f"{place}: {what} (look in {place_of(keys)})."


def _faulty_keys(error: ErrorDetails) -> list[str]:
    """The way to the faulty key, also where only its table is blamed: that of a value out of its range."""
    keys = [str(part) for part in error["loc"]]
    values = error["input"]
    if error["type"] == "value_error" and isinstance(values, dict):
        for key, value in values.items():
            try:
                _SAMPLING.validate_python({key: value})
            except ValidationError:
                return [*keys, key]
    return keys


def _variable(keys: Sequence[str]) -> str | None:
    """The environment variable that set this key or, for a table's own fault, a key in it."""
    name = _PREFIX + _DELIMITER.join(keys).upper()
    names = (variable.upper() for variable in os.environ)
    return next((n for n in names if n == name or n.startswith(name + _DELIMITER)), None)
