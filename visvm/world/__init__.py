"""The embedded world: images whose objects are known, and small models trained on them from nothing."""
