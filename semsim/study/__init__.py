"""The whole question at once: train, attack, score, annotate, analyse.

One YAML file says what is to be done; a study can be interrupted, resumed and spread over workers.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "settings": ["Study", "read_study"],
        "pipeline": ["run_study"],
    },
)
