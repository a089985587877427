"""Messages across the process border: parameters, sizes, errors, model facts. No torch."""
