"""Reading the log back: many changes at once, held against their digests."""
