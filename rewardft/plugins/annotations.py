"""The annotations of a factory's parameters, evaluated where they were written."""

from __future__ import annotations

import inspect
import sys
from typing import Any

from rewardft.errors import PluginError
from rewardft.plugins.entries import Entry, plain_callable


def annotation_of(entry: Entry, parameter: inspect.Parameter) -> Any:
    """The parameter's annotation, evaluated;
    `Any` when there is none or when it names types known to checkers only.

    Raises PluginError for text that is no annotation.
    """
    annotation = parameter.annotation
    if annotation is parameter.empty:
        return Any
    if not isinstance(annotation, str):
        return annotation
    try:
        # With `from __future__ import annotations` they are text. The code is the plugin's own.
        return eval(annotation, _namespace(entry.factory))
    except NameError:  # imported under TYPE_CHECKING: nothing that YAML could give
        return Any
    # The text is a plugin's, and may be anything: `np.ndarrray`, `int |`.
    except Exception as error:
        raise PluginError(
            f"{entry.title} ({entry.location}): the annotation of its option {parameter.name!r}, "
            f"{annotation!r:.80}, cannot be evaluated ({type(error).__name__}: {error})."
        ) from error


def class_made_by(entry: Entry) -> type | None:
    """The factory where it is a class, or the class that it is annotated to return; None where it
    names none."""
    target = plain_callable(entry.factory)
    if inspect.isclass(target):
        return target
    said = inspect.signature(target).return_annotation
    # By its name: for help alone, no text is evaluated.
    found = _namespace(target).get(said) if isinstance(said, str) else said
    return found if inspect.isclass(found) and found is not inspect.Signature.empty else None


def _namespace(factory: Any) -> dict[str, Any]:
    """Globals in which the factory's annotations were written; for a class, those of the class that
    has `__init__`."""
    target = plain_callable(factory)
    if not inspect.isclass(target):
        return getattr(target, "__globals__", {})
    owner = next((c for c in target.__mro__ if "__init__" in vars(c) and c is not object), target)
    names: dict[str, Any] = {}
    for cls in [*reversed(owner.__mro__)]:
        names |= vars(sys.modules[cls.__module__]) if cls.__module__ in sys.modules else {}
    return names
