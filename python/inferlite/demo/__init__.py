"""The model and the samples that `inferlite demo` runs on; `scripts/train_digits.py` makes both.

The samples are held-out digits of scikit-learn's copy of the UCI data set "Optical Recognition of
Handwritten Digits": 8x8 pixels, each from 0 (paper) to 16 (ink).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

MODEL_PATH: Final = Path(__file__).with_name("digits.onnx")
SAMPLES_PATH: Final = Path(__file__).with_name("digits.npz")
SIDE: Final = 8
DARKEST: Final = 16


@dataclass(frozen=True, slots=True)
class Digits:
    """Samples the model never saw in training.

    Attributes:
        pixels: float32 (samples, 64), row by row from the top left, 0 to 16.
        labels: int64 (samples,), what each digit is.
    """

    pixels: NDArray[np.float32]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.labels)


def load_samples() -> Digits:
    """Read the held-out digits that the package carries.

    Example:
        >>> digits = load_samples()
        >>> len(digits), digits.pixels.shape, str(digits.pixels.dtype)
        (540, (540, 64), 'float32')
    """
    with np.load(SAMPLES_PATH, allow_pickle=False) as samples:
        return Digits(samples["pixels"].astype(np.float32), samples["labels"].astype(np.int64))


def draw(pixels: NDArray[np.float32], shades: Sequence[str]) -> list[str]:
    """Draw one digit as 8 lines of text, two characters for each pixel.

    Args:
        pixels: float32 (64,), 0 to 16.
        shades: characters from paper to ink, at least two.
    """
    levels = np.rint(pixels / DARKEST * (len(shades) - 1)).astype(int).clip(0, len(shades) - 1)
    return ["".join(shades[level] * 2 for level in row) for row in levels.reshape(SIDE, SIDE).tolist()]


def choose_samples(labels: NDArray[np.int64], answers: NDArray[np.int64], count: int) -> list[int]:
    """Choose `count` samples to draw: the first ones, and last the first that was answered wrongly.

    A demo that only shows its successes proves little.
    """
    chosen = list(range(min(count, len(labels))))
    wrong = np.flatnonzero(labels != answers)
    if chosen and wrong.size and wrong[0] not in chosen:
        chosen[-1] = int(wrong[0])
    return chosen
