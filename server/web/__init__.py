"""The parts that all contracts share."""
