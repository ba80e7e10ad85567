"""The classes a prediction is over: their table, its versions, and what changes them."""
