"""What runs in a submission's own process, ``python -m qlstm.course.inside``: the student's cells,
behind the protections that the system gives."""
