"""Classifying any number of image files into one Parquet file, with bounded memory, in parts that outlive a kill."""
