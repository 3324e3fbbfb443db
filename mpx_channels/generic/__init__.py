"""The consumers of `channels.generic`, with our dispatch: change the import, and that is all."""
