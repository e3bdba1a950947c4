"""What models remember of a data set's labels: units of continuous ones, counts of classes."""

from __future__ import annotations

import numpy as np

from diptych.data.images import Images
from diptych.errors import WrongUse
from diptych.networks.labels import Units


def units_of(data: Images, most: int = 256) -> Units | None:
    """Mean and deviation of `data.told` attributes, at most `most` examples; None where there are none."""
    if not data.told or data.attributes is None:
        return None
    known = data.attributes[~np.isnan(data.attributes).any(1)].astype(np.float64)
    if not len(known):
        raise WrongUse("no image has all of its attributes", "choose fewer of them with --attributes")
    deviation = known.std(0)
    examples = known[:: -(-len(known) // most)].astype(np.float32).tolist()
    return Units(
        data.attribute_names,
        tuple(known.mean(0).tolist()),
        tuple(np.where(deviation > 0, deviation, 1.0).tolist()),
        tuple(map(tuple, examples)),
    )


def counts_of(data: Images) -> tuple[int, ...]:
    """How many images there are of each class; nothing where there are no classes."""
    if data.labels is None or not data.classes:
        return ()
    return tuple(np.bincount(data.labels, minlength=data.classes).tolist())
