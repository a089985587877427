"""Models and LoRAs on disk, read without torch."""
