"""The consumers of `channels.generic`, with our dispatch: only the import changes."""
