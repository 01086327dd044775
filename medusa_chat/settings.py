"""config.toml + environment + defaults. Every default of the program stands here or in records.py, once."""

from __future__ import annotations

import os
from typing import Any

from pydantic import ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from medusa_chat import paths
from medusa_chat.errors import UsageError
from medusa_chat.records import Device, DType, Quantization, SamplingOptions

_PREFIX = "MEDUSA_CHAT_"
_DELIMITER = "__"


class Settings(BaseSettings):
    """What config.toml may hold; each key also as MEDUSA_CHAT_<KEY>, and sampling as a table."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX, env_nested_delimiter=_DELIMITER, env_ignore_empty=True, extra="forbid"
    )

    model: str = "smollm2-135m"
    quant: Quantization | None = None
    device: Device = "auto"
    dtype: DType = "auto"
    system: str | None = None
    theme: str = "textual-dark"
    screen_reader: bool = False
    notify: bool = True
    sampling: SamplingOptions = SamplingOptions()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        toml = TomlConfigSettingsSource(settings_cls, paths.config_dir() / "config.toml")
        return init_settings, env_settings, toml


def load_settings(**overrides: Any) -> Settings:
    """Settings with None-valued overrides ignored.

    Raises UsageError naming the key and where it stands, or the line when config.toml is not TOML.
    """
    file = paths.config_dir() / "config.toml"
    try:
        return Settings(**{key: value for key, value in overrides.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        keys = [str(part) for part in first["loc"]]
        unknown = first["type"] in ("extra_forbidden", "unexpected_keyword_argument")
        what = "it is not known" if unknown else first["msg"].removeprefix("Value error, ").rstrip(".")
        raise UsageError(
            f"Setting {'.'.join(keys)} is wrong: {what} (look in {_variable(keys) or file})."
        ) from None
    except SettingsError as error:
        raise UsageError(
            f"The environment sets a MEDUSA_CHAT_ variable that can't be read: {error}."
        ) from None
    except OSError as error:
        raise UsageError(f"{file} can't be read: {error.strerror}.") from None
    except ValueError as error:  # tomllib's error carries line and column
        raise UsageError(f"{file} can't be read: {error}.") from None


def _variable(keys: list[str]) -> str | None:
    """The environment variable that set this key or, for a table's own fault, a key in it."""
    name = _PREFIX + _DELIMITER.join(keys).upper()
    names = (variable.upper() for variable in os.environ)
    return next((n for n in names if n == name or n.startswith(name + _DELIMITER)), None)
