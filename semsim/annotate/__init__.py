"""Who recognises what?

A labelling page for people, machine annotators with a control for label evidence,
agreement among annotators, and rules that turn several answers into one score.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "session": ["read_answers", "read_consistency"],
        "widget": ["LabellingWidget"],
        "page": ["serve_annotation_page"],
        "annotator_agreement": ["annotator_agreement", "pairwise_agreement"],
        "consensus": ["aggregate"],
        "machine_annotators": ["MachineAnnotator", "machine_answers"],
        "panels": ["train_annotator"],
        "control": ["control_set", "control_summary", "label_evidence_control"],
    },
)
