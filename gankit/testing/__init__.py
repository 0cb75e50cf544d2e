"""Conformance tests of plugins against the contracts of `gankit.interfaces`.

The tests of a plugin package need no more than this::

    import gankit.testing

    class TestConformance(gankit.testing.ConformanceSuite):
        package = "my-package"

pytest runs every check of a kind on every plugin of that kind which the package registers. Networks are built with the
options in the plugin's class attribute ``conformance``, so that a plugin whose defaults are large or need pretrained
weights can name small ones. A check that needs weights which are not here is skipped.

`CompositionSuite` trains the package's plugins together with the other installed ones, two by two.
"""

from __future__ import annotations

import unittest
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

from gankit.core.config.registry import canonical, registry
from gankit.errors import GankitError
from gankit.testing import (
    common,
    data,
    engines,
    features,
    foreign,
    metrics,
    networks,
    op_backends,
    packaged,
    training,
)
from gankit.testing.common import Subject
from gankit.testing.compositions import CompositionSuite

__all__ = ["CompositionSuite", "ConformanceSuite", "Subject", "checks_of"]

_CHECKS: dict[str, list[Callable[[Subject], None]]] = {
    **networks.CHECKS,
    **features.CHECKS,
    **training.CHECKS,
    **data.CHECKS,
    **foreign.CHECKS,
    **metrics.CHECKS,
    **engines.CHECKS,
    **op_backends.CHECKS,
    **packaged.CHECKS,
}


def checks_of(kind: str) -> list[Callable[[Subject], None]]:
    """The checks of a kind, functions of a `Subject` that raise AssertionError."""
    return [*(common.CHECKS if kind not in packaged.CHECKS else []), *_CHECKS[kind]]


class ConformanceSuite:
    """Subclass it in a test module under a name that begins with ``Test``.

    Attributes:
        package: the distribution whose plugins are tested; None tests all that are registered.
        shapes: (C, H, W) that networks are built for; one they refuse with a GankitError is left out, but they must
            accept one at least.
    """

    package: ClassVar[str | None] = None
    shapes: ClassVar[tuple[tuple[int, int, int], ...]] = (
        (3, 32, 32),
        (3, 32, 16),
        (1, 16, 32),
        (4, 32, 32),
    )

    def options(self, kind: str, name: str) -> dict[str, Any]:
        """The options that a plugin is built with here: its class attribute `conformance`, if it has one."""
        return getattr(registry().load(kind, name), "conformance", {})

    def source_path(self, name: str, folder: Path) -> str:
        """Path for a source plugin to open, created in an empty folder; '' suits sources that need no files."""
        return ""

    def pytest_generate_tests(self, metafunc: Any) -> None:
        if "check" not in metafunc.fixturenames:
            return
        wanted = None if self.package is None else canonical(self.package)
        plugins = [p for p in registry().plugins.values() if wanted in (None, canonical(p.package))]
        if not plugins:
            raise GankitError(f"no plugins of package {self.package!r} are registered; is it installed?")
        cases = [(p.kind, p.name, check) for p in plugins for check in checks_of(p.kind)]
        ids = [f"{kind}/{name}-{_short(check, kind)}" for kind, name, check in cases]
        metafunc.parametrize(("kind", "name", "check"), cases, ids=ids)

    def test_registration(self) -> None:
        """No registration of the package failed."""
        for failure in registry().failures:
            mine = self.package is None or canonical(failure.package) == canonical(self.package)
            assert not mine, f"{failure.summary}\n{failure.traceback}"

    def test_plugin(self, kind: str, name: str, check: Callable[[Subject], None]) -> None:
        """Run a check on a plugin, without downloads; skipped if it needs weights that are not here."""
        try:
            with mock.patch("huggingface_hub.constants.HF_HUB_OFFLINE", True):
                options = {} if kind in packaged.CHECKS else self.options(kind, name)
                check(Subject(kind, name, options, self.shapes, self.source_path))
        except GankitError as error:
            if str(error).startswith("no weights for "):
                raise unittest.SkipTest(str(error)) from None
            raise


def _short(check: Callable[[Subject], None], kind: str) -> str:
    return check.__name__.removeprefix("check_").removeprefix(f"{kind}_")
