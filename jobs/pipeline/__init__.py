"""From units of work through Ray Data stages to parquet files, for generate-triples and caption."""
