"""The Ray Serve deployments and the HTTP application around them."""
