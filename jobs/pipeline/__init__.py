"""Units through Ray Data stages to parquet files: what generate-triples and caption share."""
