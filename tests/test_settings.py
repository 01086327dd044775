from __future__ import annotations

from pathlib import Path

import pytest

from medusa_chat.errors import UsageError
from medusa_chat.records import SamplingOptions
from medusa_chat.settings import Settings, load_settings


@pytest.fixture
def config(home: Path) -> Path:
    file = home / "config" / "config.toml"
    file.parent.mkdir(parents=True)
    return file


def test_without_a_file_the_defaults_hold() -> None:
    assert load_settings() == Settings.model_construct()


def test_the_file_sets_what_it_names_and_nothing_else(config: Path) -> None:
    config.write_text('quant = "8bit"\n[sampling]\ntemperature = 0.7\nstop = ["END"]\n')
    settings = load_settings()
    assert settings.quant == "8bit"
    assert settings.model == Settings.model_construct().model
    assert settings.sampling == SamplingOptions(temperature=0.7, stop=("END",))


def test_the_environment_wins_over_the_file_and_options_over_both(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.write_text('model = "a"\ndevice = "cpu"\n[sampling]\ntop_p = 0.5\ntop_k = 7\n')
    monkeypatch.setenv("MEDUSA_CHAT_MODEL", "b")
    monkeypatch.setenv("MEDUSA_CHAT_DTYPE", "float32")
    monkeypatch.setenv("MEDUSA_CHAT_SAMPLING__TOP_K", "9")
    settings = load_settings(model="c", dtype=None)
    assert (settings.model, settings.device, settings.dtype) == ("c", "cpu", "float32")
    assert settings.sampling == SamplingOptions(top_p=0.5, top_k=9)


def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDUSA_CHAT_MODEL", "")
    assert load_settings() == Settings.model_construct()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"quant =", "can't be read: Invalid value"),
        (b'system = "\xff"', "can't be read: 'utf-8' codec"),
        (b'quant = "3bit"', "Setting quant is wrong: Input should be '4bit', '8bit' or 'none' "),
        (b'modle = "x"', "Setting modle is wrong: it is not known "),
        (b"[sampling]\ntemperature = 9", "Setting sampling is wrong: Temperature must lie between 0 and 5"),
        (b"[sampling]\ntemprature = 1", "Setting sampling.temprature is wrong: it is not known "),
    ],
)
def test_a_wrong_file_is_named_with_the_key(config: Path, content: bytes, said: str) -> None:
    config.write_bytes(content)
    with pytest.raises(UsageError, match=said) as caught:
        load_settings()
    assert str(config) in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("MEDUSA_CHAT_DEVICE", "tpu", "Setting device is wrong: .* in MEDUSA_CHAT_DEVICE"),
        ("MEDUSA_CHAT_SAMPLING__TOP_P", "x", "Setting sampling.top_p .* in MEDUSA_CHAT_SAMPLING__TOP_P"),
        ("MEDUSA_CHAT_SAMPLING__TOP_P", "2", "Setting sampling is wrong: Top-p .* in MEDUSA_CHAT_SAMPLING__"),
        ("MEDUSA_CHAT_SAMPLING", "{", "MEDUSA_CHAT_ variable that can't be read: .*sampling"),
    ],
)
def test_a_wrong_variable_is_named(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, said: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(UsageError, match=said):
        load_settings()


def test_a_file_that_can_not_be_read_is_named(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config.write_text('model = "a"')

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UsageError, match=r"config.toml can't be read: Permission denied"):
        load_settings()
