"""Small models, fakes and servers that tests share."""
