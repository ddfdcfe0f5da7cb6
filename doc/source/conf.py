"""How Sphinx builds the documentation; nothing is fetched from anywhere, now or when it is read."""

import importlib.metadata
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "ext"))

project = "Trove"
copyright = "2026, The Trove developers"  # noqa: A001 - the name that Sphinx reads
author = "The Trove developers"
try:
    release = importlib.metadata.version("trove")
except importlib.metadata.PackageNotFoundError:
    release = "development"
version = release

extensions = ["oslo_config.sphinxext", "oslo_policy.sphinxext", "reno.sphinxext", "trove_api"]
root_doc = "index"
html_theme = "alabaster"
html_theme_options = {
    "description": "The Database service of OpenStack",
    "fixed_sidebar": True,
    "page_width": "1040px",
}
pygments_style = "friendly"
nitpicky = True
