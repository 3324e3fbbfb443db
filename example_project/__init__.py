"""A chat with rooms: what mpx-channels looks like in a Django project."""
