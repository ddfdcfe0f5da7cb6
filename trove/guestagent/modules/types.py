"""The types of modules: what is made of their contents."""

from __future__ import annotations

import abc
import pathlib
import re
from collections.abc import Mapping

from trove.common import exception
from trove.guestagent.system import filesystem


class ModuleFailed(exception.TroveError):
    """A module cannot be applied; the text is for people and repeats nothing of the contents."""

    msg_fmt = "{reason}"
    code = "trove.module_failed"


class ModuleType(abc.ABC):
    """A type of modules."""

    @abc.abstractmethod
    def check(self, contents: bytes) -> str:
        """Return what of the contents counts; raises ModuleFailed, with nothing done yet."""

    @abc.abstractmethod
    def apply(self, value: str, directory: pathlib.Path) -> str:
        """Do it, within ``directory`` alone, and return what to tell people.

        May be called again, with other contents too; raises OSError. What is in the directory goes
        with the module.
        """


def _line(contents: bytes, key: str) -> str:
    """Return the value of the one line ``key=value`` that the contents must be."""
    try:
        text = contents.decode("utf-8").strip()
    except UnicodeDecodeError:
        raise ModuleFailed(reason="the contents are not UTF-8 text") from None
    name, separator, value = text.partition("=")
    value = value.strip()
    if name.strip() != key or not separator or not value or not value.isprintable():
        raise ModuleFailed(reason=f"the contents must be one line: {key}=...")
    return value


class Ping(ModuleType):
    """Does nothing but answer with its message: tells that modules work."""

    def check(self, contents: bytes) -> str:
        """Take ``message=...``."""
        return _line(contents, "message")

    def apply(self, value: str, directory: pathlib.Path) -> str:
        """Answer."""
        return value


class NewRelicLicense(ModuleType):
    """Keeps the licence of a monitoring agent for it."""

    _KEY = re.compile(r"[0-9A-Za-z_-]{8,128}\Z")

    def check(self, contents: bytes) -> str:
        """Take ``license_key=...``."""
        value = _line(contents, "license_key")
        if not self._KEY.match(value):
            raise ModuleFailed(
                reason="a licence key is 8 to 128 letters, digits, hyphens and underscores"
            )
        return value

    def apply(self, value: str, directory: pathlib.Path) -> str:
        """Write the licence file."""
        path = directory / "newrelic.cfg"
        filesystem.write_file(path, f"license_key={value}\n", mode=0o600)
        return "The licence file was written."


#: By the name that modules carry.
TYPES: Mapping[str, ModuleType] = {
    "ping": Ping(),
    "new_relic_license": NewRelicLicense(),
}
