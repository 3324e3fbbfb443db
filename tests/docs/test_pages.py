"""The URLs of these pages that the package names, and what publishes them there."""

from __future__ import annotations

import re
import tomllib

import pytest

from mpx_channels.diagnostics.pages import DOCUMENTATION

from .pages import DOCS, ROOT

NAMED = sorted(
    {
        named
        for path in (ROOT / "mpx_channels").rglob("*.py")
        for named in re.findall(r"\bpage\('([\w-]+)'(?:, '([\w-]+)')?\)", path.read_text())
    }
)


def test_the_address_is_that_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["urls"]["Documentation"] == DOCUMENTATION


def test_who_publishes_them_can_build_them() -> None:
    yaml = pytest.importorskip("yaml")
    settings = yaml.safe_load((ROOT / ".readthedocs.yaml").read_text())
    assert (ROOT / settings["sphinx"]["configuration"]).is_file()
    (package,) = settings["python"]["install"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(package["extra_requirements"]) <= set(project["optional-dependencies"])
    assert (
        f"Programming Language :: Python :: {settings['build']['tools']['python']}"
        in (project["classifiers"])
    )


def test_there_are_some() -> None:
    assert len(NAMED) >= 3


@pytest.mark.parametrize(("name", "anchor"), NAMED)
def test_the_page_exists(name: str, anchor: str) -> None:
    text = (DOCS / f"{name}.md").read_text()
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}
    assert not anchor or anchor in anchors
