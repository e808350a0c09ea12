"""The one function that ``torch.compile`` does not look into. Its decorator imports
``torch._dynamo``, which takes seconds, so that nothing but compiled code imports this module."""

import torch


@torch.compiler.disable
def call(function, *arguments, **keywords):
    """What the ``function`` returns for its ``arguments`` and ``keywords``."""
    return function(*arguments, **keywords)
