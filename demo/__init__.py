"""The demo's input: what real customers of CDNOW bought, as ``goodsyard import`` takes it."""
