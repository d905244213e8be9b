"""Take a remedy out of the product's source for the length of a test, to prove that the test would notice."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import sys
from collections.abc import Iterator

_HERE = ("melter.hw", "melter.twin", "hw_", "test_")


@contextlib.contextmanager
def without(module_name: str, remedy: str, instead: str) -> Iterator[None]:
    """Run the module's source with ``remedy`` replaced; whoever imported from it gets the changed things as well."""
    module = importlib.import_module(module_name)
    source = inspect.getsource(module)
    if source.count(remedy) != 1:
        raise LookupError(f"{module_name}: {source.count(remedy)} places read {remedy!r}, must be 1")
    before = dict(vars(module))
    exec(compile(source.replace(remedy, instead), str(module.__file__), "exec"), vars(module))
    changed = {id(value): vars(module)[name] for name, value in before.items() if vars(module)[name] is not value}
    grafted = [
        (vars(other), name, value)
        for other in list(sys.modules.values())
        if other is not module and getattr(other, "__name__", "").startswith(_HERE)
        for name, value in list(vars(other).items())
        if id(value) in changed and not name.startswith("__")
    ]
    try:
        for table, name, value in grafted:
            table[name] = changed[id(value)]
        yield
    finally:
        for table, name, value in grafted:
            table[name] = value
        vars(module).update(before)
