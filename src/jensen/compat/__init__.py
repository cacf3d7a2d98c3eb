"""Other libraries' interfaces on jensen's engines: for code that exists already."""
