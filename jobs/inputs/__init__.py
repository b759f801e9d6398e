"""What a job is given: images, models, and paths that every node must see."""
