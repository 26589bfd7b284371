"""How much would a person recognise in the images that leaked from a model?"""

__version__ = "0.1.0"

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=["core", "attack", "metrics", "annotate", "training", "analysis", "paper2309", "study", "cli"],
    submod_attrs={
        "core": ["load_dataset", "build_classifier", "load_classifier", "show_images"],
        "attack": ["train_classifier", "share_gradient", "receive", "infer_labels", "invert", "search_policies"],
        "metrics": ["available", "score", "SemSim", "leak_share"],
        "annotate": ["LabellingWidget", "read_answers", "aggregate"],
        "training": ["Recipe", "train_semsim"],
        "analysis": ["agreement", "compare", "noise_ceiling", "power"],
        "study": ["Study", "read_study", "run_study"],
    },
)
