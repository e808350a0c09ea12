"""The study: a configuration becomes a run, and a run becomes a record.

``tasks`` and ``profiles`` what the paper trains and how much of it, ``config`` the settings of a
run, ``grid`` the paper's runs, ``training`` the loop, ``records`` what remains of a run.
"""
