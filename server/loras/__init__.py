"""LoRA references to local files."""
