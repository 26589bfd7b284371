"""What does a shared gradient give away?

Train a classifier, share gradients as a client would, and reconstruct the images behind them.
Defences act on the image (`transforms`), on the training or on what is shared (`defenses`).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "training": ["train_classifier"],
        "sharing": ["SharedGradient", "share_gradient", "receive"],
        "labels": ["infer_labels", "label_accuracy"],
        "objectives": ["Attack"],
        "inversion": ["Reconstructions", "invert"],
        "policy_search": ["search_policies"],
    },
)
