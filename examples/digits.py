"""scikit-learn's 1797 handwritten digits, each with fourteen labels."""

import numpy as np
from sklearn.datasets import load_digits

LABELS = {
    "even": {0, 2, 4, 6, 8},
    "prime": {2, 3, 5, 7},
    "at least 5": {5, 6, 7, 8, 9},
    "has a loop": {0, 6, 8, 9},  # as printed; many a handwritten 2 or 4 has one, too
    **{str(digit): {digit} for digit in range(10)},
}


def load():
    """Images of 8 x 8 pixels in [0, 1], the digits, and a matrix of their labels."""
    images, digits = load_digits(return_X_y=True)
    labels = np.stack([np.isin(digits, list(members)) for members in LABELS.values()], axis=1)
    return images.astype(np.float32) / 16, digits, labels
