"""The code as a text: style, types, the direction of imports, what the package carries."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def run(*command: str) -> None:
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def tool(name: str) -> str:
    """The tool of the environment the tests run in, whether or not that is on PATH."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    assert found, f"{name} is missing: install with the extra dev"
    return found


def test_style() -> None:
    run(tool("ruff"), "check", "--no-cache")


def test_format() -> None:
    run(tool("ruff"), "format", "--check", "--no-cache")


def test_types() -> None:
    run(tool("mypy"))


def test_imports_point_down() -> None:
    run(tool("lint-imports"), "--no-cache")


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        (
            "medusa_chat.cli",
            ("torch", "transformers", "huggingface_hub", "textual", "pydantic", "rich", "typer"),
        ),
        (
            "medusa_chat.app",
            ("torch", "transformers", "huggingface_hub", "bitsandbytes", "safetensors", "numpy"),
        ),
        # Not before the first picture.
        ("medusa_chat.app", ("markdown_it", "pygments", "filelock", "pyperclip")),
        ("medusa_chat.app", ("medusa_chat.app.models.desk", "medusa_chat.checkpoints.plans", "typer")),
        ("medusa_chat.commands.chat", ("typer", "pydantic", "textual")),
    ],
)
def test_nothing_heavy_is_imported_at_the_top(module: str, heavy: tuple[str, ...]) -> None:
    program = f"import sys, {module}; print(*(name for name in {heavy} if name in sys.modules))"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == ""


def test_the_wheel_carries_what_the_program_reads(tmp_path: Path) -> None:
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path))
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
    data = {"medusa_chat/models.toml"}
    data |= {
        file.relative_to(ROOT).as_posix()
        for file in (ROOT / "medusa_chat").rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert data <= packed
    assert "medusa_chat/app/app.tcss" in packed


def test_ci_runs_the_readmes_command() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    (command,) = (line for line in lines if line.endswith("-m pytest"))
    assert command in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
