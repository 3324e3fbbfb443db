"""What the pages list is what there is: keys, names, files, links, words of the checks."""

from __future__ import annotations

import ast
import re
from dataclasses import fields
from importlib import import_module
from typing import Any

import pytest
from django.core.checks import ERROR

from mpx_channels.checks import check_channel_layers
from mpx_channels.layer.config import LayerConfig

from .pages import DOCS, PAGES, ROOT


def test_config_lists_every_key_with_its_default() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `(.+?)` \|", (DOCS / "config.md").read_text(), re.MULTILINE)
    listed = {key: ast.literal_eval(default) for key, default in rows}
    assert len(listed) == len(rows), "a key is there twice"
    there = {key.name: key.default for key in fields(LayerConfig)}
    there["hosts"] = [host.url for host in LayerConfig().parsed_hosts]
    assert listed == there


PUBLIC = [
    "mpx_channels.consumers",
    "mpx_channels.generic.http",
    "mpx_channels.generic.websocket",
    "mpx_channels.health",
    "mpx_channels.layer",
    "mpx_channels.metrics",
    "mpx_channels.multiplexer",
    "mpx_channels.testing",
    "mpx_channels.worker",
]


@pytest.mark.parametrize("module", PUBLIC)
def test_api_lists_every_public_name(module: str) -> None:
    section = (DOCS / "api.md").read_text().partition(f".. module:: {module}\n")[2]
    section = section.partition(".. module::")[0]
    listed = re.findall(r"^\.\. (?:auto\w+|py:data):: (\w+)(?:\(\))?$", section, re.MULTILINE)
    public = import_module(module)
    # What is offered again for convenience stands where it comes from, if one can import it there.
    others = tuple(other for other in PUBLIC if other != module)
    own = [
        name
        for name in public.__all__
        if not getattr(getattr(public, name), "__module__", module).startswith(others)
    ]
    assert sorted(listed) == sorted(own)


def test_files_named_in_the_design_exist() -> None:
    named = set(re.findall(r"`([\w/]+\.py)`", (DOCS / "design.md").read_text()))
    there = {str(path) for path in (ROOT / "mpx_channels").rglob("*.py")}
    assert named
    assert [name for name in named if not any(path.endswith("/" + name) for path in there)] == []


# Where the links of the README lead, which is read on PyPI, too, and what they stand for here.
PUBLISHED = {
    r"https://mpx-channels\.readthedocs\.io/en/stable/([\w-]+)\.html": r"docs/\1.md",
    r"https://mpx-channels\.readthedocs\.io/en/stable/": "docs/index.md",
    r"https://raw\.githubusercontent\.com/mpx-channels/mpx-channels/main/(.+)": r"\1",
    r"https://github\.com/mpx-channels/mpx-channels/blob/main/(.+)": r"\1",
}


def test_links_of_the_readme_exist() -> None:
    links = re.findall(r"\]\(([^)#]+)", (ROOT / "README.md").read_text())
    assert [link for link in links if not link.startswith("https://")] == []
    files = []
    for link in links:
        for published, here in PUBLISHED.items():
            if found := re.fullmatch(published, link):
                files.append(found.expand(here))
                break
    assert len(files) > 10
    assert [name for name in files if not (ROOT / name).exists()] == []


def test_figures_of_the_readme_are_those_of_the_benchmarks() -> None:
    measured = (DOCS / "benchmarks.md").read_text()
    numbers = set(re.findall(r"\d[\d,.]*\d|\d", measured))
    numbers |= {str(round(float(n))) for n in numbers if re.fullmatch(r"\d+\.\d+", n)}
    numbers |= {f"{float(n):.1f}" for n in numbers if re.fullmatch(r"\d+\.\d+", n)}
    text = (ROOT / "README.md").read_text().partition("| | mpx-channels |")[2]
    rows = [row for row in text.partition("\n\n")[0].splitlines() if row.startswith("| ")]
    cells = [cell for row in rows for cell in row.split("|")[2:]]
    named = {number for cell in cells for number in re.findall(r"\d[\d,.]*\d|\d", cell)}
    assert len(named) > 15
    assert named - numbers == set()


def test_the_check_says_what_the_installation_page_says(settings: Any) -> None:
    settings.CHANNEL_LAYERS = {
        "default": {
            "BACKEND": "mpx_channels.layer.MpxChannelLayer",
            "CONFIG": {"capactiy": 1000},
        }
    }
    (error,) = check_channel_layers()
    assert error.level == ERROR
    page = (DOCS / "installation.md").read_text()
    assert f"?: ({error.id}) {error.msg}" in page


def test_every_check_is_on_the_installation_page() -> None:
    source = (ROOT / "mpx_channels" / "checks.py").read_text()
    page = (DOCS / "installation.md").read_text()
    ids = set(re.findall(r"mpx_channels\.[EW]\d+", source))
    assert ids == set(re.findall(r"^\| `(mpx_channels\.[EW]\d+)` \|", page, re.MULTILINE))


def test_pages_are_found() -> None:
    assert {"README.md", "index.md", "tutorial.md"} <= {page.name for page in PAGES}
