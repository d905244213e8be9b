"""What is wrong with a machine file, on one line: the key's path, its value and what is allowed."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any, cast, get_args

from pydantic import BaseModel, ValidationError

RANGE_ERRORS = {
    "greater_than", "greater_than_equal", "less_than", "less_than_equal", "finite_number", "float_type", "int_type",
}  # fmt: skip


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """Return one line for the first thing that is wrong with a table that should have been a ``model``."""
    errors = error.errors()
    first = min(errors, key=lambda one: one["type"] != "extra_forbidden")
    path = ".".join(str(part) for part in first["loc"])
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    kind, message = first["type"], first["msg"].removeprefix("Value error, ")
    if kind == "extra_forbidden":
        return f"{path}: unknown key{_nearest(first['loc'], model)}{more}"
    if kind == "missing":
        return f"{path}: missing{_allowed(first['loc'], model, '; must be ')}{more}"
    value = first["input"]
    shown = f" = {value!r}" if isinstance(value, int | float | str | bool) else ""
    if kind == "value_error":
        return f"{path}.{message}{more}" if path else f"{message}{more}"
    message = (
        _demand(kind, first) or (_allowed(first["loc"], model, "must be ") if kind in RANGE_ERRORS else "") or message
    )
    return " ".join(f"{path}{shown}: {message}{more}".split())


def _demand(kind: str, first: Any) -> str:
    """What is wanted instead, for what is not a number."""
    context = first.get("ctx", {})
    if kind in ("too_short", "too_long"):
        bound = f"at least {context['min_length']}" if kind == "too_short" else f"at most {context['max_length']}"
        return f"has {context['actual_length']} entries, must have {bound}"
    words = {
        "model_type": "must be a table",
        "tuple_type": "must be a list",
        "literal_error": f"must be one of {context.get('expected', '')}",
        "string_type": "must be text",
        "string_pattern_mismatch": f"must match {context.get('pattern', '')}",
        "string_too_short": f"must have at least {context.get('min_length', 1)} characters",
        "string_too_long": f"must have at most {context.get('max_length', 0)} characters",
    }
    return words.get(kind, "")


def _allowed(location: tuple[int | str, ...], model: Any, lead: str) -> str:
    """What numbers the place in the file takes, in words; nothing where it takes something else."""
    annotation, rules = _place(location, model)
    if annotation not in (float, int):
        return ""
    limits = {name: getattr(rule, name) for rule in rules for name in ("ge", "gt", "le", "lt") if hasattr(rule, name)}
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    parts = [f"{words[name]} {limits[name]:g}" for name in ("ge", "gt", "le", "lt") if name in limits]
    kind = "a whole number" if annotation is int else "a finite number"
    return lead + " ".join([kind, *([", ".join(parts)] if parts else [])])


def _place(location: tuple[int | str, ...], model: Any) -> tuple[Any, list[Any]]:
    """Type and rules of the value at a place."""
    annotation, rules = model, list[Any]()
    for part in location:
        if isinstance(part, str):
            owner = next(_models_in(annotation), None)
            if owner is None or part not in owner.model_fields:
                return None, []
            annotation, rules = owner.model_fields[part].annotation, list(owner.model_fields[part].metadata)
        else:
            items = [item for item in get_args(annotation) if item is not Ellipsis and item is not type(None)]
            if len(items) == 1 and get_args(items[0]) and hasattr(annotation, "__args__") and part >= 0:
                annotation = items[0]
            elif items:
                annotation = items[min(part, len(items) - 1)]
            rules = []
        annotation, rules = _bare(annotation, rules)
    return annotation, rules


def _bare(annotation: Any, rules: list[Any]) -> tuple[Any, list[Any]]:
    """The type without ``| None`` and without what is annotated to it, which joins the rules."""
    options = [a for a in get_args(annotation) if a is not type(None)]
    if type(None) in get_args(annotation) and len(options) == 1:
        annotation = options[0]
    metadata = getattr(annotation, "__metadata__", None)
    if metadata is None:
        return annotation, rules
    found = [*rules]
    for item in metadata:
        found += getattr(item, "metadata", [item])
    return annotation.__origin__, found


def _nearest(location: tuple[int | str, ...], model: Any) -> str:
    """A hint at the key that was probably meant, its unit included."""
    for part in location[:-1]:
        if isinstance(part, int):
            continue
        model = next(_models_in(model.model_fields[part].annotation), None)
        if model is None:
            return ""
    name = str(location[-1])
    fields = cast("list[str]", list(model.model_fields))
    with_unit = [field for field in fields if field.startswith(f"{name}_")]
    if with_unit:
        return f"; a unit is missing: {with_unit[0]}"
    close = difflib.get_close_matches(name, fields, n=1)
    return f"; did you mean {close[0]}?" if close else f"; known: {', '.join(fields)}"


def _models_in(annotation: Any) -> Iterator[Any]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from _models_in(argument)
