"""The course: exercises that check themselves, sliders, hand-outs."""
