"""A model on a device: loading, denoising, LoRAs. Imports torch."""
