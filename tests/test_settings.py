from __future__ import annotations

from pathlib import Path

import pytest

from medusa_chat.config_file import line_of
from medusa_chat.errors import CheckpointError, UsageError
from medusa_chat.records import SamplingOptions
from medusa_chat.settings import Settings, load_settings, save_defaults


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
        (b'model = "x"\nquant = 4bit', r"can't be read: .*\(at line 2, column [0-9]+\)\.$"),
        (b'model = "x"\nsystem = "\xff"', r"can't be read: it is not UTF-8 \(at line 2\)\.$"),
        (b'quant = "3bit"', r"Setting quant is wrong: Input should be '4bit', .* \(look in .*, line 1\)\.$"),
        (b'\nmodle = "x"', r"Setting modle is wrong: it is not known .*, line 2\)\. Did you mean model\?$"),
        (b"[sampling]\n\ntemperature = 9", r"Setting sampling\.temperature is wrong: Temp.*, line 3\)\.$"),
        (b"sampling = {temperature = 9}", r"Setting sampling\.temperature is wrong: Temp.*, line 1\)\.$"),
        (
            b"[sampling]\ntop_p = 0.5\ntemprature = 1",
            r"sampling\.temprature .* line 3\).* mean temperature\?$",
        ),
        (b'[sampling]\ntree = "zephyr_stage2"\ntree_size = 8', r"Setting sampling is wrong: .*, line 1\)\.$"),
        (b'system = """\na\n"""\ntheme = 3', r"Setting theme is wrong: .* valid string .*, line 4\)\.$"),
        (b"[presets.mine]\ntop_p = 2", r"Setting presets\.mine\.top_p is wrong: Top-p .*, line 2\)\.$"),
        (b"[presets.mine]\ntopp = 2", r"presets\.mine\.topp is wrong: .*\)\. Did you mean top_p\?$"),
        (b"[keys]\nhelp = 1", r"Setting keys\.help is wrong: .* valid string .*, line 2\)\.$"),
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
        (
            "MEDUSA_CHAT_SAMPLING__TOP_P",
            "2",
            r"Setting sampling\.top_p is wrong: Top-p .*CHAT_SAMPLING__TOP_P\)",
        ),
        ("MEDUSA_CHAT_SAMPLING__TOPP", "2", r"sampling\.topp .*_SAMPLING__TOPP\)\. Did you mean top_p\?$"),
        (
            "MEDUSA_CHAT_SAMPLING",
            "{",
            "MEDUSA_CHAT_SAMPLING can't be read: .* MEDUSA_CHAT_SAMPLING__<KEY> instead",
        ),
        (
            "MEDUSA_CHAT_MODLE",
            "x",
            r"sets MEDUSA_CHAT_MODLE, which is not known. Did you mean MEDUSA_CHAT_MODEL\?$",
        ),
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


def test_a_folder_in_the_files_place_is_not_passed_over(config: Path) -> None:
    config.mkdir()
    with pytest.raises(UsageError, match=r"config.toml can't be read: it is a folder\."):
        load_settings()


def test_presets_and_keys_are_read(config: Path) -> None:
    config.write_text('[presets.mine]\ntop_p = 0.5\n[keys]\nhelp = "f11"\n')
    settings = load_settings()
    assert settings.presets == {"mine": SamplingOptions(top_p=0.5)}
    assert settings.keys == {"help": "f11"}


def test_a_line_is_found_however_the_key_is_written() -> None:
    text = 'a.b = 1\n"c d" = [\n  1,\n]\n\n# [e]\n[e]\nf = """\n[g]\nh = 1\n"""\n[[i]]\nj = 1\n'
    assert line_of(text, ["a", "b"]) == 1
    assert line_of(text, ["c d"]) == 2
    assert line_of(text, ["e"]) == 7
    assert line_of(text, ["e", "f"]) == 8
    assert line_of(text, ["g", "h"]) is line_of(text, ["i", "j"]) is line_of(text, ["a", "b", "c"]) is None


DIFFERENT = SamplingOptions(temperature=0.7, stop=("END", "STOP"), tree_size=8, context="keep-first")
PROMPT = 'Say \\"""hello""".\n\n\tBe "brief"'


def test_saved_defaults_are_read_again_and_hold_only_what_differs(config: Path) -> None:
    assert save_defaults(DIFFERENT, PROMPT, "nord") == config
    settings = load_settings()
    assert (settings.sampling, settings.system, settings.theme) == (DIFFERENT, PROMPT, "nord")
    assert "top_p" not in config.read_text()
    save_defaults(SamplingOptions(), None, Settings.model_construct().theme)
    assert load_settings() == Settings.model_construct()


def test_saving_makes_the_folder(home: Path) -> None:
    save_defaults(DIFFERENT, None, "nord")
    assert load_settings().sampling == DIFFERENT


WRITTEN = """\
# Mine.
quant = "4bit"   # fits

[sampling]
# hot
temperature = 0.70
top_k = 7  # to go

[keys]
help = "f11"  # F1 is the terminal's
"""


def test_saving_keeps_comments_and_what_it_does_not_know(config: Path) -> None:
    config.write_text(WRITTEN)
    config.chmod(0o600)
    save_defaults(SamplingOptions(temperature=0.7, min_p=0.1), None, "nord")
    assert config.read_text() == WRITTEN.replace("fits\n", 'fits\ntheme = "nord"\n').replace(
        "top_k = 7  # to go\n", "min_p = 0.1\n"
    )
    assert config.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content", ["sampling.top_k = 7\n", "sampling = {top_k = 7}\n[keys]\n"])
def test_saving_into_other_forms_of_a_table(config: Path, content: str) -> None:
    config.write_text(content)
    save_defaults(SamplingOptions(top_k=8, top_p=0.5), "Hi", "nord")
    settings = load_settings()
    assert (settings.sampling, settings.system) == (SamplingOptions(top_k=8, top_p=0.5), "Hi")


def test_saving_through_a_link_leaves_the_link(config: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "dotfiles.toml"
    elsewhere.write_text("# there\n")
    config.symlink_to(elsewhere)
    save_defaults(DIFFERENT, None, "nord")
    assert config.is_symlink()
    assert "# there" in elsewhere.read_text()
    assert load_settings().sampling == DIFFERENT


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"quant =", r"config\.toml can't be read: .*\. Correct it, then save again\."),
        (b'system = "\xff"', r"config\.toml can't be read: .*\. Correct it, then save again\."),
        (b"sampling = 3", r"sampling in .*config\.toml is no table\. Correct it"),
    ],
)
def test_a_file_that_broke_meanwhile_is_left_alone(config: Path, content: bytes, said: str) -> None:
    config.write_bytes(content)
    with pytest.raises(UsageError, match=said):
        save_defaults(DIFFERENT, None, "nord")
    assert config.read_bytes() == content


def test_a_full_disk_leaves_the_file_as_it_was(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config.write_text(WRITTEN)

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", refuse)
    with pytest.raises(CheckpointError, match=r"config\.toml can't be written \(No space left on device\)"):
        save_defaults(DIFFERENT, None, "nord")
    assert config.read_text() == WRITTEN
    assert [file.name for file in config.parent.iterdir()] == ["config.toml"]
