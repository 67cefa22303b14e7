"""The figures of a run: each function draws its data, saves one PNG and returns the PNG's path.

Figures across the runs of a task, which its report draws, are in `across`.
"""

from common.plots import across
from common.plots.classifier import (
    class_counts,
    class_destinations,
    confusion_matrix,
    mistaken_images,
    per_class_scores,
    predictions_grid,
)
from common.plots.codes import cumulative_variance, embeddings
from common.plots.history import (
    generalisation_gap,
    group_rates,
    learning_curves,
    learning_rate,
    loss_by_step,
    phase_bars,
)
from common.plots.images import (
    IMAGES_PER_ROW,
    STEPPED_IMAGES,
    channel_intensities,
    class_images,
    heat_maps,
    image_pairs,
    image_steps,
)

__all__ = [
    "IMAGES_PER_ROW",
    "STEPPED_IMAGES",
    "across",
    "channel_intensities",
    "class_counts",
    "class_destinations",
    "class_images",
    "confusion_matrix",
    "cumulative_variance",
    "embeddings",
    "generalisation_gap",
    "group_rates",
    "heat_maps",
    "image_pairs",
    "image_steps",
    "learning_curves",
    "learning_rate",
    "loss_by_step",
    "mistaken_images",
    "per_class_scores",
    "phase_bars",
    "predictions_grid",
]
