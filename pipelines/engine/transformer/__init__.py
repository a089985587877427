"""The transformer's forward of our own, over the weights of diffusers' module.

`forward` is the way through the blocks, `choice` decides whether it is taken. The rest are its
parts: `projections` (fused QKV), `heads` (norms), `rotary` (positions), `modulation` (a table per
schedule).
"""

from pipelines.engine.transformer.choice import Forward, choose_forward

__all__ = ["Forward", "choose_forward"]
