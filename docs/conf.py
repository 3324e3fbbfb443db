"""How Sphinx builds these pages: sphinx-build -W docs docs/_build/html"""

from typing import Any

from docutils.nodes import Element
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.nodes import make_refnode

from mpx_channels import __version__

project = "mpx-channels"
copyright = "the mpx-channels authors"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton"]
exclude_patterns = ["_build"]
# What docstrings have in single backticks links to an object of that name, where there is one.
default_role = "py:obj"

myst_enable_extensions = ["attrs_block", "attrs_inline", "deflist", "substitution"]
myst_heading_anchors = 3
myst_substitutions = {"version": version}

# Of what a page shows, what can be typed: not what a block prints, and no prompts.
copybutton_selector = "div:not(.highlight-output) > div.highlight > pre"
copybutton_prompt_text = r"\$ |>>> "
copybutton_prompt_is_regexp = True
copybutton_only_copy_prompt_lines = True
copybutton_remove_prompts = True

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 130

html_theme = "furo"
html_title = f"mpx-channels {version}"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_favicon = "_static/icon.svg"
html_show_sphinx = False
html_copy_source = False
html_show_sourcelink = False
pygments_style = "friendly"


MODULES = (
    "mpx_channels.multiplexer",
    "mpx_channels.layer",
    "mpx_channels.layer.serializers",
    "mpx_channels.consumers",
)


def resolve_name(app: Sphinx, env: BuildEnvironment, node: Any, content: Any) -> Element | None:
    """Docstrings leave the module out, also where the name is of another one of ours."""
    if node["refdomain"] != "py":
        return None
    target = node["reftarget"]
    if target == "LayerConfig":
        return make_refnode(app.builder, node["refdoc"], "config", "", content)
    domain = env.get_domain("py")
    for module in MODULES:
        found = domain.resolve_xref(
            env, node["refdoc"], app.builder, "obj", f"{module}.{target}", node, content
        )
        if found is not None:
            return found
    return None


def setup(app: Sphinx) -> None:
    app.connect("missing-reference", resolve_name)
