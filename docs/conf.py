# SPDX-License-Identifier: Apache-2.0
"""How sphinx makes the site out of the pages in this directory: `scripts/docs`.

The pages are plain Markdown, so that they read the same in a checkout, on a code host and on the site. What the site
adds to that is in `extensions/`: links to the glossary become references to its terms, and names in docstrings become
references to what is documented. Nothing here may need the network, neither while building nor while reading.
"""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE / "extensions")]

from compysition import __version__  # noqa: E402 - the checkout is built, not what happens to be installed

project = "compysition"
author = "the compysition authors"
version = release = __version__
language = "en"

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "myst_parser",
    "glossary_terms",
    "public_names",
    "flow_pictures",
]
exclude_patterns = ["extensions"]
nitpicky = True

# ---- pages --------------------------------------------------------------------------------------------------------

myst_heading_anchors = 4

# ---- docstrings ---------------------------------------------------------------------------------------------------

napoleon_google_docstring = True
napoleon_numpy_docstring = False
# As fields of the class: autodoc describes the attributes that have a docstring of their own, and nothing twice.
napoleon_use_ivar = True

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
# An actor's `consume` is described where it is declared, in `Actor`.
autodoc_inherit_docstrings = False
autodoc_default_options = {"members": True}
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100
add_module_names = False

# ---- the site -----------------------------------------------------------------------------------------------------

html_theme = "furo"
# The default of the theme underlines names in code, as if they were links.
pygments_dark_style = "a11y-high-contrast-dark"
html_title = f"compysition {version}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_show_copyright = False
