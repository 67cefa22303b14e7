"""Python's garbage collection, which would go through all that the libraries make while they are loaded, repeatedly."""

import gc


def pause() -> None:
    """Collect nothing while libraries are loaded."""
    gc.disable()


def resume() -> None:
    """Collect again; what was loaded meanwhile stays to the end of the process."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()
