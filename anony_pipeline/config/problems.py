"""What pydantic finds wrong with a user's YAML, as lines that a person can act on."""

import difflib
from typing import Any, get_args

from pydantic import BaseModel


def problem_of(details: Any, model: type[BaseModel], whole: str) -> str:  # noqa: ANN401 - pydantic's error dictionary
    """One mistake: key path, rule and value; of an unknown key the nearest known one.

    Args:
        details: One of `pydantic.ValidationError.errors`.
        model: What was validated against.
        whole: How a rule about all of it is called in the place of a key path.
    """
    path = ".".join(str(part) for part in details["loc"]) or whole
    if details["type"] == "extra_forbidden":
        known = _known_keys(details["loc"][:-1], model)
        near = difflib.get_close_matches(str(details["loc"][-1]), known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
        return f"{path}: there is no such key; {hint} (got {details['input']!r})"
    if details["type"] == "missing":
        return f"{path}: this key is required"
    if details["type"] == "value_error":
        # Our own rules name the values that break them; pydantic would show the whole section.
        return f"{path}: {details['ctx']['error']}"
    return f"{path}: {details['msg']} (got {details['input']!r})"


def _known_keys(path: tuple[str | int, ...], model: type[BaseModel]) -> list[str]:
    for part in path:
        if isinstance(part, str):
            model = _model_in(model.model_fields[part].annotation)
    return list(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel]:  # noqa: ANN401 - any annotation
    """The pydantic model inside ``X``, ``X | None`` or ``tuple[X, ...]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(_model_in(part) for part in get_args(annotation) if part not in (type(None), Ellipsis))
