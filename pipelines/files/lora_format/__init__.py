"""LoRA files by their headers: layouts, families, reports. No torch."""
