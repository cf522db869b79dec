"""How ``./do docs`` builds these pages: warnings are errors."""

from __future__ import annotations

import notebook_rt

project = "notebook_rt"
author = "The notebook_rt founders"
release = version = notebook_rt.__version__

extensions = ["myst_parser", "numpydoc", "sphinx.ext.autodoc"]
exclude_patterns = ["releasing.md"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
default_role = "py:obj"  # a docstring's `Session.sign_in` is a link where there is such a page
autodoc_typehints = "none"  # numpydoc's Parameters have the types
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "inherited-members": True}
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False
highlight_language = "none"

html_theme = "pydata_sphinx_theme"
html_title = "notebook_rt"
html_sidebars = {name: [] for name in ("index", "tutorial", "symptoms")}  # single pages
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "navigation_with_keys": False,
    "show_prev_next": True,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
}
