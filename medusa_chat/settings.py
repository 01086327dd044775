"""config.toml + environment + defaults. Every default of the program stands here or in records.py, once."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from medusa_chat import paths
from medusa_chat.errors import UsageError
from medusa_chat.records import Device, DType, Quantization, SamplingOptions


class Settings(BaseSettings):
    """What config.toml may hold; each key also as MEDUSA_CHAT_<KEY>, and sampling as a table."""

    model_config = SettingsConfigDict(env_prefix="MEDUSA_CHAT_", env_nested_delimiter="__", extra="forbid")

    model: str = "smollm2-135m"
    quant: Quantization | None = None
    device: Device = "auto"
    dtype: DType = "auto"
    system: str | None = None
    theme: str = "textual-dark"
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

    Raises UsageError naming the key, or the line when config.toml is not TOML.
    """
    try:
        return Settings(**{key: value for key, value in overrides.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        file = paths.config_dir() / "config.toml"
        raise UsageError(f"Setting {key!r} is wrong: {first['msg']} (look in {file}).") from None
    except ValueError as error:  # tomllib's error carries line and column
        raise UsageError(f"{paths.config_dir() / 'config.toml'} can't be read: {error}") from None
