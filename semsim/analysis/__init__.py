"""Which metric agrees with the annotators, and how surely?

Correlations at three levels with intervals, comparisons of metrics, the noise ceiling,
the power of a planned study, figures and a report.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "intervals": ["agreement"],
        "comparison": ["compare"],
        "pairwise_accuracy": ["soft_pairwise_accuracy", "tie_calibrated_accuracy"],
        "noise_ceilings": ["noise_ceiling"],
        "power_analysis": ["power"],
        "agreement_figures": ["plot_agreement_scatter", "plot_forest"],
        "example_figures": ["plot_disagreements"],
        "reporting": ["report"],
    },
)
