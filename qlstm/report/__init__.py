"""From records to tables, figures, verdicts and pages."""

from qlstm.errors import needs

needs("reproduce", "pandas", "matplotlib", "seaborn", "scipy", "ipywidgets", "jupyter_client")
