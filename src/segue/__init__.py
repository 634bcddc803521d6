"""segue: train, transfer, compare and apply segmentation networks for microscopy.

    import segue
    segue.prepare("nuclei.toml", "nuclei.h5")
    segue.train("stage.toml", "run")
    labels = segue.predict("run", image)          # arrays in, arrays out

Public names are listed in `__init__.pyi` and imported when first used, so that `import segue` is instant.
"""

from importlib.metadata import version

import lazy_loader

__version__ = version("segue")
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
