"""What happens to documents: one file for each stage. Importing this package registers them all."""

import importlib
import pkgutil


def load_all() -> None:
    """Import every module of this package, so that its stages are in the registry."""
    for module in pkgutil.walk_packages(__path__, __name__ + "."):
        importlib.import_module(module.name)
