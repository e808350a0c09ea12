"""From records to tables, figures, verdicts and pages."""
