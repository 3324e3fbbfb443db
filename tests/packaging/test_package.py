"""The package as it is released: built, looked at, and installed where there is nothing else."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from email.message import Message
from importlib.util import find_spec
from pathlib import Path

import pytest

from mpx_channels import __version__
from tests.conftest import missing
from tests.docs.pages import DOCS, ROOT, blocks

# As in all corners, and it takes half a minute.
pytestmark = pytest.mark.alike

NOXFILE = ROOT / "noxfile.py"
# Of git's files, what only a server that runs the tests reads.
NOT_SHIPPED = (".github/", ".ci/")


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """What a program prints, when it has gone well."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    pip = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_"))}
    done = subprocess.run(
        command,
        cwd=cwd,
        env=kept | pip | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The source distribution, and the wheel that was built from it."""
    for module in ("build", "hatchling", "twine"):
        if find_spec(module) is None:
            missing(f"{module} is not installed")
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    (source,) = folder.glob("*.tar.gz")
    (wheel,) = folder.glob("*.whl")
    return source, wheel


@pytest.fixture(scope="session")
def metadata(built: tuple[Path, Path]) -> Message:
    with zipfile.ZipFile(built[1]) as wheel:
        (name,) = [each for each in wheel.namelist() if each.endswith(".dist-info/METADATA")]
        return message_from_bytes(wheel.read(name))


def test_an_index_takes_it(built: tuple[Path, Path]) -> None:
    said = run(sys.executable, "-m", "twine", "check", "--strict", *built, cwd=built[0].parent)
    assert said.count("PASSED") == 2


def test_its_version_is_the_module_s(built: tuple[Path, Path], metadata: Message) -> None:
    assert metadata["Version"] == __version__
    assert [path.name.split("-")[1].removesuffix(".tar.gz") for path in built] == [__version__] * 2


def test_it_says_whose_it_is_and_where(metadata: Message) -> None:
    urls = {label for url in metadata.get_all("Project-URL", []) for label in [url.split(",")[0]]}
    assert urls == {"Documentation", "Changelog", "Source", "Issues"}
    assert metadata["Author"]
    classifiers = metadata.get_all("Classifier", [])
    assert "Typing :: Typed" in classifiers
    # Each that noxfile.py tests with, and no other.
    tested = set(re.findall(r'nox\.param\([^,]+, "(\d\.\d)", id="\d\.\d-', NOXFILE.read_text()))
    prefix = "Framework :: Django :: "
    named = {each.removeprefix(prefix) for each in classifiers if each.startswith(prefix)}
    assert named == tested >= {"5.2", "6.0", "6.1"}
    assert any(each.startswith("Topic :: ") for each in classifiers)


def test_the_source_is_complete(built: tuple[Path, Path]) -> None:
    try:
        listed = run("git", "ls-files", cwd=ROOT).splitlines()
    except (AssertionError, FileNotFoundError):
        pytest.skip("this is no checkout")
    wanted = {
        name for name in listed if not name.startswith(NOT_SHIPPED) and (ROOT / name).exists()
    }
    with tarfile.open(built[0]) as source:
        names = {name.partition("/")[2] for name in source.getnames()}
    assert wanted - names == set()
    assert "noxfile.py" in names
    assert {name for name in names if name.startswith((".venv", "dist", ".embedded"))} == set()


def test_the_wheel_has_the_package_alone(built: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(built[1]) as wheel:
        names = wheel.namelist()
    folders = {name.partition("/")[0] for name in names}
    assert folders == {"mpx_channels", f"mpx_channels-{__version__}.dist-info"}
    assert "mpx_channels/py.typed" in names


SETTINGS = """
SECRET_KEY = "of a test"
ALLOWED_HOSTS = ["localhost"]
INSTALLED_APPS = ["mpx_channels", "channels"]
"""


def test_the_quick_start_in_an_empty_environment(
    built: tuple[Path, Path], redis_url: str, tmp_path: Path
) -> None:
    """What docs/installation.md says to do, with nothing but what pip brings along."""
    environment = tmp_path / "environment"
    run(sys.executable, "-m", "venv", environment, cwd=tmp_path)
    python = environment / "bin" / "python"
    install = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", built[1]]
    try:
        run(*install, cwd=tmp_path)
    except AssertionError as error:
        if "No matching distribution" in str(error) or "ConnectionError" in str(error):
            missing("pip finds no Django here")
        raise
    python_blocks = [each for each in blocks(DOCS / "installation.md") if each.language == "python"]
    (layers,) = [each.text for each in python_blocks if each.text.startswith("CHANNEL_LAYERS")]
    (program,) = [each for each in python_blocks if each.output]
    local = "redis://localhost:6379"
    assert local in layers
    (tmp_path / "settings.py").write_text(SETTINGS + layers.replace(local, redis_url))
    (tmp_path / "program.py").write_text(f"import django\n\ndjango.setup()\n{program.text}")

    def project(*arguments: str) -> str:
        variables = {"DJANGO_SETTINGS_MODULE": "settings", "PYTHONPATH": str(tmp_path)}
        return run(python, *arguments, cwd=tmp_path, **variables)

    where = project("-c", "import mpx_channels; print(mpx_channels.__file__)")
    assert where.startswith(str(environment))
    assert "no issues" in project("-m", "django", "check")
    assert project("program.py") == program.output
    assert project("-m", "django", "mpx", "--version") == f"mpx-channels {__version__}\n"
