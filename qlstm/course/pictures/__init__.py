"""The diagrams of the lessons, drawn by code. Each function returns an image, which a cell shows
that ends with the call, with words for who does not see it."""

from qlstm.course.pictures.gradients import gradient_paths, growth, unrolled
from qlstm.course.pictures.network import lstm_cell
from qlstm.course.pictures.weights import lookup, normalizer_axes, packed_bits

__all__ = ["gradient_paths", "growth", "lookup", "lstm_cell", "normalizer_axes", "packed_bits",
           "unrolled"]
