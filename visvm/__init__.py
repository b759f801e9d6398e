"""visvm: a vision value model that looks ahead for a vision-language model."""
