"""Sphinx's settings: MyST Markdown, Furo's looks, nothing from the network."""

project = "Trapdoor"
author = "the Trapdoor authors"
copyright = "the Trapdoor authors, CC BY 4.0"  # noqa: A001  (Sphinx wants this name)

extensions = ["myst_parser"]
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3
highlight_language = "none"

exclude_patterns = ["_build"]
nitpicky = True
smartquotes = False  # commands are copied from these pages

html_theme = "furo"
html_title = "Trapdoor"
html_static_path = ["style"]
html_css_files = ["trapdoor.css"]
html_copy_source = False
html_show_sphinx = False

man_pages = [("hv", "hv", "run a guest on the hypervisor of the Trapdoor course", "", 1)]
man_make_section_directory = False
