"""config.toml as the user wrote it: where a key stands, and new defaults put in without touching the rest."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any

from medusa_chat import paths
from medusa_chat.errors import UsageError

Values = Mapping[str, Any]


def config_file() -> Path:
    """It need not be there."""
    return paths.config_dir() / "config.toml"


def line_of(text: str, keys: Sequence[str]) -> int | None:
    """The line, from 1, on which a key of a TOML text is set; the table's line for the keys of a table."""
    lines = text.splitlines(keepends=True)
    first = 1
    for number in range(1, len(lines) + 1):
        try:
            read = tomllib.loads("".join(lines[:number]))
        except tomllib.TOMLDecodeError:
            continue  # within a value of several lines
        if _holds(read, keys):
            return first
        first = number + 1
    return None


def _holds(table: Any, keys: Sequence[str]) -> bool:
    for key in keys:
        if not isinstance(table, dict) or key not in table:
            return False
        table = table[key]
    return True


def write_values(values: Values, builtin: Values) -> Path:
    """Sets these keys in config.toml, tables key by key; a value that is the built-in one is left out of it.
    Comments, the order, and whatever else stands there stay. Returns the file.

    Raises UsageError if what is there is no TOML, CheckpointError if it can't be written; both leave the
    file as it was.
    """
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    from medusa_chat.files import write_whole, writing

    # The file a link leads to: people keep their settings elsewhere.
    file = config_file().resolve()
    try:
        before = file.read_text(encoding="utf-8") if file.exists() else ""
        document = tomlkit.parse(before)
        _put(document, values, builtin)
    except (TOMLKitError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} can't be read: {error}. Correct it, then save again.") from None
    except OSError as error:
        raise UsageError(f"{file} can't be read: {error.strerror}.") from None
    mode = file.stat().st_mode if file.exists() else None
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, tomlkit.dumps(document).encode())
        if mode is not None:
            file.chmod(mode)
    return file


def _put(table: MutableMapping[str, Any], values: Values, builtin: Values) -> None:
    for key, value in values.items():
        if isinstance(value, Mapping):
            _put_table(table, key, value, builtin[key])
        elif value == builtin[key]:
            table.pop(key, None)
        elif table.get(key) != value:
            table[key] = _item(value)


def _put_table(table: MutableMapping[str, Any], key: str, values: Values, builtin: Values) -> None:
    import tomlkit

    inner = table.get(key, tomlkit.table())
    if not isinstance(inner, MutableMapping):
        raise UsageError(f"{key} in {config_file()} is no table. Correct it, then save again.")
    _put(inner, values, builtin)
    if inner and key not in table:
        table[key] = inner


def _item(value: Any) -> Any:
    import tomlkit

    is_long = isinstance(value, str) and "\n" in value
    return tomlkit.string(value, multiline=True) if is_long else value
