"""What a stranger names as `package.module:factory`: how it is imported, and called."""

import importlib
from pathlib import Path
from typing import Any, Callable

from .calls import STOPS, Problem
from .places import tail


def find(option: str, given: str) -> Any:
    """Imports what `package.module:factory` names."""
    module_name, _, path = given.partition(":")
    if not module_name or not path:
        raise Problem(
            f"{option} is {given!r}, and should be package.module:factory, such as "
            "serving.models:get_model: a module to import, a colon, and a function in it."
        )
    try:
        value: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name + ".").startswith(error.name + "."):
            raise Problem(
                f"{option} is {given!r}, and there is no module {error.name!r}. It is looked up in "
                f"the working directory, {Path.cwd()}, and on PYTHONPATH. Run this where "
                f"`import {module_name}` works, or set PYTHONPATH."
            ) from None
        raise Problem(f"The import of {module_name!r} failed:\n{tail(error)}") from None
    except STOPS as error:
        raise Problem(f"The import of {module_name!r} failed:\n{tail(error)}") from None
    for part in path.split("."):
        if not hasattr(value, part):
            there = [
                name for name, each in vars(value).items() if callable(each) and name[0] != "_"
            ]
            raise Problem(
                "{} is {!r}, and {} has no {!r}. It has {}.".format(
                    option, given, module_name, part, ", ".join(there) or "nothing to call"
                )
            )
        value = getattr(value, part)
    if not callable(value):
        raise Problem(
            f"{option} is {given!r}, which is a {type(value).__name__}. Name a function that "
            f"returns what is to be used."
        )
    return value


def make(option: str, given: str, factory: Callable[..., Any], *arguments: Any) -> Any:
    """Calls somebody's factory: that of an explainer with the model, others without arguments."""
    try:
        return factory(*arguments)
    except STOPS as error:
        how = "with the model" if arguments else "without arguments"
        raise Problem(
            f"{option}, {given}(), was called {how}, and raised:\n{tail(error)}"
        ) from None
