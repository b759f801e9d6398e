"""The embedded world: pictures whose objects are known, and small models trained on them from nothing."""
