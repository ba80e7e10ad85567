"""Request bodies: what they may hold in memory and in time, and the forms and encodings in which they come."""
