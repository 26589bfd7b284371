"""How does a metric learn what annotators recognise?

Triplets from answers, the training of SemSim, its calibration to a probability,
and how easily it is fooled.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "semsim_training": ["Recipe", "train_semsim"],
        "robustness": ["fooling_rates"],
    },
)
