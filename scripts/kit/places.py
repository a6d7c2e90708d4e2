"""Where the kit keeps what it makes, and how it is called: as a checkout, and as a package."""

from pathlib import Path

import platformdirs

from kit.errors import UsageError
from kit.releases import ROOT

# A package has the patches and the code, and nothing else of a checkout.
IS_CHECKOUT = (ROOT / "scripts" / "kit.sh").exists()

# Shared environments: beside the checkout, or where the user's programs keep what is theirs.
ENVIRONMENTS = ROOT / ".kit" if IS_CHECKOUT else platformdirs.user_cache_path("pyg-threadsafe-env")

PROGRAM = "scripts/kit.sh" if IS_CHECKOUT else "pyg-threadsafe"


def build_folder() -> Path:
    """Returns where trees, wheels and logs are put: in the checkout, or in this directory."""
    return ROOT / "build" if IS_CHECKOUT else Path("build")


def door(verb: str) -> list[str]:
    """Returns the words that call a verb, from any directory."""
    if not IS_CHECKOUT:
        return ["pyg-threadsafe", verb]
    if verb == "apply":
        return [str(ROOT / "scripts" / "apply.sh")]
    return [str(ROOT / "scripts" / "kit.sh"), verb]


def as_called(text: str) -> str:
    """Returns a text with the commands of a checkout as the user calls them."""
    if IS_CHECKOUT:
        return text
    return text.replace("scripts/apply.sh", f"{PROGRAM} apply").replace("scripts/kit.sh", PROGRAM)


def need_checkout(verb: str) -> None:
    """Raises an error where a verb needs what a package does not have.

    Raises:
        UsageError: If this is a package.
    """
    if not IS_CHECKOUT:
        raise UsageError(
            f"'{verb}' needs a checkout of pyg-threadsafe, for its pages and its matrix, and this "
            f"is an installed package. Clone the repository, and call './kit.sh {verb}' in its "
            f"folder scripts."
        )
