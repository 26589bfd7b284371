"""What every package uses: errors, seeds, images and files, data sets, weights, networks, tasks.

Images are float32 tensors (B,C,H,W) in [0,1]; tables are tidy pandas frames.
Bad input raises an `InputError` of one line. A file is written whole or not at all.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "errors": ["InputError"],
        "files": ["read_image", "show_images"],
        "datasets": ["Dataset", "Split", "load_dataset"],
        "folders": ["write_reconstructions"],
        "classifiers": ["build_classifier", "load_classifier", "save_classifier"],
    },
)
