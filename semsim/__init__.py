"""How much would a person recognise in the images that leaked from a model?"""

__version__ = "0.1.0"

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=["core", "data", "models", "networks", "human_study", "archives", "units", "defenses", "train", "share", "attack", "policies", "metrics", "scoring", "torchmetric",
                "annotate", "semsim", "consensus", "machines", "annotation_page", "corpus", "learning", "calibration", "teaching", "fooling", "analysis", "intervals", "comparison", "ceilings", "figures", "conclusions", "planning", "settings", "costs", "study", "report", "cli"],
    submod_attrs={
        "data": ["load_dataset"],
        "models": ["build_classifier", "load_classifier"],
        "train": ["train_classifier"],
        "share": ["share_gradient", "infer_labels"],
        "attack": ["invert"],
        "policies": ["search_policies"],
        "metrics": ["available"],
        "scoring": ["score"],
        "annotate": ["LabellingWidget", "read_answers"],
        "semsim": ["SemSim"],
        "learning": ["Recipe", "train_semsim"],
        "calibration": ["leak_share"],
        "consensus": ["aggregate"],
        "intervals": ["agreement"],
        "comparison": ["compare"],
        "ceilings": ["ceiling"],
        "settings": ["Study", "read_study"],
        "study": ["run_study"],
    },
)
