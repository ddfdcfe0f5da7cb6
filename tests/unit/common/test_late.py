"""Modules that are loaded at their first use."""

from __future__ import annotations

import pathlib
import subprocess
import sys
import textwrap

import pytest

_PACKAGE = {
    "__init__.py": """
        from late_sample import part
        from late_sample.part import VALUE
        log = []
        def __getattr__(name):
            if name == "dynamic":
                return "made"
            raise AttributeError(name)
        """,
    "part.py": "import late_sample\nVALUE = 7\n",
}
_PREPARE = """
import sys, threading
from trove.common import late
late.MODULES = ("late_sample", "late_missing", "xml.dom.minidom")
late.import_late()
"""


@pytest.fixture
def package(tmp_path: pathlib.Path) -> pathlib.Path:
    """A package whose parts import one another."""
    directory = tmp_path / "late_sample"
    directory.mkdir()
    for name, text in _PACKAGE.items():
        (directory / name).write_text(textwrap.dedent(text))
    return tmp_path


@pytest.mark.parametrize(
    "use",
    [
        "import late_sample\nimport late_sample as s\n"
        "assert 'late_sample.part' not in sys.modules and s.VALUE == 7",
        "from late_sample import VALUE, dynamic\nassert (VALUE, dynamic) == (7, 'made')",
        "import late_sample.part\nassert late_sample.part.VALUE == late_sample.VALUE == 7",
        "from late_sample.part import VALUE\nassert VALUE == 7",
        "import late_sample\nassert not hasattr(late_sample, 'nothing')\n"
        "assert type(late_sample) is type(sys)",
        # whoever comes while it is loaded waits for the end of that
        "import late_sample\nseen = []\n"
        "ask = lambda: seen.append(late_sample.VALUE)\n"
        "threads = [threading.Thread(target=ask) for _ in range(8)]\n"
        "[t.start() for t in threads]\n[t.join() for t in threads]\nassert seen == [7] * 8",
        "import xml.dom.minidom\nassert type(xml.dom.minidom) is not type(sys)\n"
        "assert xml.dom.minidom.Document and type(xml.dom.minidom) is type(sys)",
        "import importlib.util\nassert importlib.util.find_spec('late_missing') is None\n"
        "assert 'late_missing' not in sys.modules",
    ],
)
def test_module_is_what_it_is_without(package: pathlib.Path, use: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"{_PREPARE}\n{use}"],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": f"{package}:{pathlib.Path(__file__).parents[3]}"},
    )
    assert done.returncode == 0, done.stderr
