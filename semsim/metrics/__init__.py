"""How alike are an original and its reconstruction?

Every metric is registered by name with its direction, range and protocol; `score` computes them.
SemSim is one of them: a distance that was trained on what annotators recognised.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "features": ["FeatureExtractor"],
        "semsim": ["SemSim"],
        "registry": ["Metric", "available", "register"],
        "scoring": ["score", "score_sets", "summarise"],
        "baseline_images": ["baselines", "match_batches"],
        "torchmetric": ["PairMetric"],
        "leakage": ["leak_share"],
        "score_report": ["contact_sheet", "score_files"],
    },
)
