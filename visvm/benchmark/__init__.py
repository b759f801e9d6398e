"""What the shared prefix saves: the published procedure, batching alone and ours on the same work."""
