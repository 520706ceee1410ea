"""Metric learning that looks past the batch.

The public names are listed in `__init__.pyi`, one line each, and loaded when they are used: importing the library costs
nothing.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
