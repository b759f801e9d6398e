"""The embedded world: drawn images whose objects are known exactly, and small models trained on them."""
