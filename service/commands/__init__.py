"""The commands of `d3gzsl`, one file each; heavy imports wait until a command runs."""
