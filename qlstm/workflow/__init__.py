"""The commands that drive the study: run, reproduce, status, bench, and notebooks with
papermill."""
