"""The data, folder layouts and metric protocol of the 2023 paper (arXiv:2309.13038).

The answers of five people to 8,400 reconstructions, readers for the released archives,
and the metrics as the released code computes them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "human_study": ["HUMAN_STUDY_METRICS", "download_human_study", "read_human_study"],
        "archive_files": ["read_samples"],
        "reconstruction_archive": ["read_reconstruction_archive"],
        "training_archive": ["read_training_archive"],
        "annotation_archive": ["read_annotation_archive"],
    },
)
