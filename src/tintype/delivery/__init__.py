"""How stored bytes go out: whole, in ranges, or not at all where the client has them already."""
