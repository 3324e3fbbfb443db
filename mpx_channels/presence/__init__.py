"""Who is in a group: what Redis does with it, and what is handed out of it."""
