"""Image-restoration networks in JAX with TLC, the Test-time Local Converter.

    import tlc_jax as tlc

    model, params = tlc.load("checkpoints/nafnet-gopro-width32")
    local = model.clone(local_mode=True)  # same parameters, windowed statistics
    sharp = tlc.restore(local, params, tlc.read_image("blurry.png"))

Images are NHWC, RGB, in [0, 1].
"""

import lazy_loader

# What `__init__.pyi` names is imported where it is used: JAX takes a second.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = "0.1.0"
