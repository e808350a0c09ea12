"""The course: exercises that check themselves, sliders, hand-outs."""

from qlstm.errors import needs

needs("learn", "pandas", "matplotlib", "seaborn", "nbformat", "jupyter_client")
