"""What crosses the process border: parameters, sizes, messages, errors. No torch."""
