"""A GPU that is lent for minutes: ``python -m qlstm gpu``, its archives, its table, its
rehearsal."""
