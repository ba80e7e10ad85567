"""What is checked of files that others made before anything in them is used."""
